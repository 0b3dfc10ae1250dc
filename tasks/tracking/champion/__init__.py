"""What is kept with a registered model so that every machine that shares its MLflow decides alike."""
