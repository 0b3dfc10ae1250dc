"""Documents that hold what models are evaluated on: evaluation sets and held-out documents as an index of n-grams on disk."""
