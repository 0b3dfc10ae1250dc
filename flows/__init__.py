"""Each file one flow that reads as a list of its stages, and the deployments that make them startable."""

import gc

# What a flow imports, Prefect, MLflow and transformers, stays: to look for garbage in it again and again while it grows is a
# fifth of the start of every command and every run.
gc.set_threshold(50_000, 20, 50)
