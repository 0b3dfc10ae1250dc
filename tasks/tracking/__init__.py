"""MLflow: the runs, the registry and its versions; and what of a run is shown while it goes on. Nothing else imports mlflow."""
