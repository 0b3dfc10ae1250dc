"""The runs of flows and of their stages, as MLflow has them."""

from mlflow import MlflowClient

from tests.flows.servers import Servers


def client(servers: Servers) -> MlflowClient:
    return MlflowClient(servers.mlflow)


def parents(mlflow: MlflowClient):
    """The MLflow runs of flows, newest first."""
    experiment = mlflow.get_experiment_by_name("leanpipe")
    assert experiment is not None
    runs = mlflow.search_runs([experiment.experiment_id])
    return [run for run in runs if "leanpipe.flow_run" in run.data.tags]


def children(mlflow: MlflowClient, parent) -> dict[str, object]:
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    runs = mlflow.search_runs([parent.info.experiment_id], query)
    return {run.data.tags["leanpipe.stage"]: run for run in runs}


def files(mlflow: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    return [file.path for file in mlflow.list_artifacts(run_id, folder)]
