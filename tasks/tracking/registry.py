"""The MLflow model registry: versions, their files, and the alias `challenger`. `champion_history` moves the other one."""

import re
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
from leanpipe.core.store import Artifact, external
from tasks.run import Run
from tasks.tracking.elsewhere import has_files
from tasks.tracking.mlflow_model import description, log_model_folder
from tasks.tracking.versions import DIGEST, DOCUMENTS, TRAINED_ON, Version, described, unanswered

CHALLENGER, CHAMPION = "challenger", "champion"
_NEWEST = "latest"  # an alias that every model has, and none lists
_VERDICT = "leanpipe.verdict."  # and when it was given


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
    trained_on: tuple[str, ...] = ()
    """Keys of all cleaned corpora that it, and what it was made from, learned from."""


class Registered(BaseModel):
    """A model version and what became of it."""

    name: str
    version: str
    champion: bool
    reason: str
    """Why it became champion, or why not."""


def model_of(name: str, number: str) -> Artifact:
    """The model folder of a version, fetched if it lies elsewhere.

    Its digest is the one that it was registered under, so that its evaluation is found in the store; of a version that
    somebody else registered it is that of its files. Raises UserError if there is no such version, or if its files are out
    of reach.
    """
    version = _needed(name, number)
    folder, called = _folder(version), f"{name}@{number}"
    if digest := version.tags.get(DIGEST):
        return Artifact(name=called, path=folder, digest=digest)
    return external(called, folder)


def find_registered(reference: str) -> Artifact | None:
    """The model folder of a version that is named NAME@ALIAS or NAME@VERSION, under that name; None for anything else.

    Raises UserError if no such model is registered, or if its files are out of reach.
    """
    if not re.fullmatch(r"[\w. -]+@[\w.-]+", reference) or Path(reference).exists():
        return None
    name, _, which = reference.partition("@")
    version = _needed(name, which)
    return model_of(name, str(version.version)).model_copy(update={"name": reference})


def model_folder(name: str, alias_or_version: str) -> Path:
    """The files of a registered model, fetched if they lie elsewhere.

    Raises UserError if there is no such model, if its files are out of reach, or if the registry does not answer.
    """
    return _folder(_needed(name, alias_or_version))


def find_version(client: MlflowClient, name: str, alias_or_version: str) -> Version | None:
    """Return what is known of a version; None only if the registry says that there is none."""
    version = _find(client, name, alias_or_version)
    return version and described(version, ())


def _needed(name: str, alias_or_version: str) -> ModelVersion:
    try:
        version = _find(MlflowClient(), name, alias_or_version)
    except UserError:
        raise
    except Exception as error:  # an address that is none, or a database that is damaged
        raise unanswered(error) from error
    if version is None:
        raise UserError(
            f"no model {name}@{alias_or_version} is registered: run the pipeline first, or name another"
        )
    return version


def _find(client: MlflowClient, name: str, alias_or_version: str) -> ModelVersion | None:
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


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
def register(run: Run, name: str, candidate: Candidate) -> Version:
    """Make the candidate a version of `name`, unless these very files are one, and give it the alias `challenger`.

    One run at a time: two would make two versions of the same files, and MLflow fails where two set one alias.
    """
    client = run.tracking.client
    with run.store.locked(f"register-{name}"):
        version = _existing(client, name, candidate.model.digest) or _create(run, name, candidate)
        client.set_registered_model_alias(name, CHALLENGER, version.version)
    return described(version, (CHALLENGER,))


def note_verdict(client: MlflowClient, version: Version, time: str, verdict: str) -> None:
    """Keep with a version what was decided about it; what was decided before stays, and nothing is said twice in a row."""
    tags = client.get_model_version(version.name, version.version).tags
    earlier = [value for tag, value in sorted(tags.items()) if tag.startswith(_VERDICT)]
    if earlier[-1:] != [verdict]:
        client.set_model_version_tag(version.name, version.version, f"{_VERDICT}{time}", verdict)


def _create(run: Run, name: str, candidate: Candidate) -> ModelVersion:
    client = run.tracking.client
    logged = log_model_folder(client, run.mlflow_run, candidate.label, candidate.model.path, candidate.card)
    _ensure_model(client, name)
    tags = {
        DIGEST: candidate.model.digest,
        "leanpipe.label": candidate.label,
        DOCUMENTS: candidate.documents,
        TRAINED_ON: ",".join(candidate.trained_on),
        "leanpipe.why_chosen": candidate.reason,
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


def _says(error: MlflowException, code: int) -> bool:
    return error.error_code == ErrorCode.Name(code)


def _folder(version: ModelVersion) -> Path:
    name = f"{version.name} version {version.version}"
    try:
        return _find_model(Path(download_artifacts(f"models:/{version.name}/{version.version}")))
    except (MlflowException, OSError) as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise UserError(
            f"the files of {name} are out of reach at {version.source}: bring them back, or give its aliases to another "
            f"version ({reason})"
        ) from error


def _find_model(folder: Path) -> Path:
    """The model within what was registered: MLflow puts one that it logged itself into a folder of its own."""
    if (folder / "config.json").exists():
        return folder
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    return inside[0] if len(inside) == 1 else folder
