"""Each file one flow that reads as a list of its stages, and the deployments that make them startable."""
