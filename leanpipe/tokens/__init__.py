"""Documents to blocks of tokens: tokenizers trained and used, packing, and the blocks as a dataset."""
