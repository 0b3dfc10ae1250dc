-- Run once by the postgres image, when the volume is empty; it makes the database `prefect` itself (POSTGRES_DB).
CREATE DATABASE mlflow;
