"""Documents and paragraphs that repeat others, exactly or nearly, by hashes of words and MinHash."""
