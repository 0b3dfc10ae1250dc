"""leanpipe: what a stage does. This package knows torch and text; it knows neither Prefect nor MLflow."""
