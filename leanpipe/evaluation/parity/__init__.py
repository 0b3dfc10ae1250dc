"""Whether a model as it will be served answers as the model that was trained: a gate before anything is registered."""
