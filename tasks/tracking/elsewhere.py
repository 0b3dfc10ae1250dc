"""What somebody may have done in MLflow itself since the last run, looked at before any work: deleted, collected."""

import logging

from mlflow import MlflowClient
from mlflow.artifacts import list_artifacts
from mlflow.entities import Experiment, LifecycleStage
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from leanpipe.core.errors import UserError
from tasks.tracking.patience import is_away
from tasks.tracking.versions import unanswered

log = logging.getLogger("leanpipe.mlflow")


def restore_experiment(client: MlflowClient, experiment: Experiment) -> None:
    """Restore the experiment if it was deleted: nothing is lost by it, and nothing can be tracked without."""
    if experiment.lifecycle_stage != LifecycleStage.DELETED:
        return
    try:
        client.restore_experiment(experiment.experiment_id)
    except MlflowException:  # by another run, meanwhile
        if client.get_experiment(experiment.experiment_id).lifecycle_stage == LifecycleStage.DELETED:
            raise
    log.warning("The experiment %s was deleted in MLflow: it is restored, with its runs", experiment.name)


def check_champion(name: str) -> None:
    """Raise UserError if the model `name` has a champion whose files are gone: no challenger could be compared with it.

    Raises MlflowException if MLflow is away.
    """
    client = MlflowClient()
    try:
        known = client.search_registered_models(f"name = '{name}'")
        number = known[0].aliases.get("champion") if known else None
        gone = number is not None and not has_files(client.get_model_version(name, str(number)))
    except MlflowException as error:
        if is_away(error):
            raise
        raise unanswered(error) from error
    if gone:
        raise UserError(
            f"the champion, {name} version {number}, has no files any more (was its run deleted in MLflow, and collected?): "
            "give the alias champion to another version, or delete this version, and start again"
        )


def has_files(version: ModelVersion) -> bool:
    """Whether the files of a version are there. Raises MlflowException if MLflow does not answer."""
    try:
        return bool(list_artifacts(artifact_uri=f"models:/{version.name}/{version.version}"))
    except OSError:
        return False
