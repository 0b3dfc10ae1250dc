"""The main text of a web page: by our own rules on its blocks, or by one of three libraries."""
