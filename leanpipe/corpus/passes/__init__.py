"""The three steps of cleaning over the shards of a corpus, the executors they run on, and the columns between them."""
