"""A stage as a Prefect task: its store, its process, its tracking. The only code that knows both Prefect and leanpipe's stages."""
