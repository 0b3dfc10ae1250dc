"""The main text of a web page: by our own rules on its blocks, by a small network of ours, or by one of three libraries."""
