"""The MLflow model registry: versions, the aliases `challenger` and `champion`, and why each was given."""

from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary
from leanpipe.core.store import Artifact
from leanpipe.evaluation.gate import Verdict
from tasks.run import Run
from tasks.tracking.elsewhere import has_files
from tasks.tracking.mlflow_model import description, log_model_folder
from tasks.tracking.versions import DIGEST, DOCUMENTS, unanswered

CHALLENGER, CHAMPION = "challenger", "champion"
_NEWEST = "latest"  # an alias that every model has, and none lists


@dataclass(frozen=True)
class Candidate:
    """The one of a run's models that is to be registered."""

    label: str
    model: Artifact
    figures: Summary
    """What `evaluate` measured."""
    card: str
    """Markdown for people."""
    reason: str
    """Why this one of the run's models."""
    documents: str = ""
    """Digest of the cleaned corpus that it was made from."""


class Registered(BaseModel):
    """A model version and what became of it."""

    name: str
    version: str
    champion: bool
    reason: str
    """Why it became champion, or why not."""


def champion(name: str) -> Artifact | None:
    """The champion's model folder on this machine; None if the model `name` has none.

    Raises UserError if the registry does not answer.
    """
    version = _version(MlflowClient(), name, CHAMPION)
    if version is None:
        return None
    # The digest that it was registered under, so that its evaluation is found in the store.
    return Artifact(name=f"{name}@{CHAMPION}", path=_folder(version), digest=version.tags[DIGEST])


def model_folder(name: str, alias_or_version: str) -> Path:
    """The files of a registered model, fetched if they lie elsewhere.

    Raises UserError if there is no such model, or if the registry does not answer.
    """
    client = MlflowClient()
    version = _version(client, name, alias_or_version)
    if version is None:
        raise UserError(
            f"no model {name}@{alias_or_version} is registered: run the pipeline first, or name another"
        )
    return _folder(version)


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
def register(run: Run, name: str, candidate: Candidate, verdict: Verdict) -> Registered:
    """Make the candidate a version of `name`: `challenger`, and `champion` if that was the verdict."""
    client = run.tracking.client
    version = _existing(client, name, candidate.model.digest) or _create(run, name, candidate)
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    if verdict.promote:
        client.set_registered_model_alias(name, CHAMPION, version.version)
    for tag, value in {"leanpipe.why_chosen": candidate.reason, "leanpipe.verdict": verdict.reason}.items():
        client.set_model_version_tag(name, version.version, tag, value)
    current = client.get_model_version_by_alias(name, CHAMPION).version
    is_champion = str(current) == str(version.version)
    return Registered(name=name, version=str(version.version), champion=is_champion, reason=verdict.reason)


def _create(run: Run, name: str, candidate: Candidate) -> ModelVersion:
    client = run.tracking.client
    logged = log_model_folder(client, run.mlflow_run, candidate.label, candidate.model.path, candidate.card)
    _ensure_model(client, name)
    tags = {
        DIGEST: candidate.model.digest,
        "leanpipe.label": candidate.label,
        DOCUMENTS: candidate.documents,
    }
    tags |= {f"leanpipe.{figure}": str(value) for figure, value in candidate.figures.items()}
    return client.create_model_version(
        name,
        logged.source,
        run.mlflow_run,
        tags=tags,
        description=description(candidate.card),
        model_id=logged.model_id,
    )


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="Made by leanpipe; `champion` is the one to serve.")
    except MlflowException as error:
        if not _says(error, RESOURCE_ALREADY_EXISTS):
            raise


def _existing(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    """The version that holds these very files, so that a run served from the store registers nothing twice."""
    versions = client.search_model_versions(f"name = '{name}'")
    same = (version for version in versions if version.tags.get(DIGEST) == digest)
    return next((version for version in same if has_files(version)), None)


def _version(client: MlflowClient, name: str, alias_or_version: str) -> ModelVersion | None:
    """Return the version; None only if the registry says that there is none: any other error is no answer.

    A model's aliases are read first: to a question for one that it lacks MLflow answers as to a wrong question.
    """
    try:
        if alias_or_version.isdecimal():
            return client.get_model_version(name, alias_or_version)
        known = client.get_registered_model(name).aliases
        if alias_or_version not in known and alias_or_version.lower() != _NEWEST:
            return None
        return client.get_model_version_by_alias(name, alias_or_version)
    except MlflowException as error:
        if _says(error, RESOURCE_DOES_NOT_EXIST):
            return None
        raise unanswered(error) from error


def _says(error: MlflowException, code: int) -> bool:
    return error.error_code == ErrorCode.Name(code)


def _folder(version: ModelVersion) -> Path:
    return Path(download_artifacts(f"models:/{version.name}/{version.version}"))
