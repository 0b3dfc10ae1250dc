"""The main text of a web page: by a small network over its blocks, or by one of three libraries."""
