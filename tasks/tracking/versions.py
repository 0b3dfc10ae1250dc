"""What the model registry holds, for who asks. Asking needs no Prefect."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home

DIGEST, DOCUMENTS = "leanpipe.digest", "leanpipe.documents"
"""Tags of a version: digests of its files, and of the cleaned corpus that it was made from."""
TRAINED_ON = "leanpipe.trained_on"
"""Tag of a version: keys of all cleaned corpora that it, and what it was made from, learned from."""


class Version(BaseModel):
    """A version in the registry, and what it was made of."""

    name: str
    version: str
    aliases: list[str]
    digest: str
    """Of the files that were registered, as the store knows them."""
    documents: str
    """Digest of the cleaned corpus that it was made from; nothing if that was not written down."""
    trained_on: list[str] = []
    """Keys of all cleaned corpora that it, and what it was made from, learned from, as far as they were written down."""


def all_versions() -> list[Version]:
    """List every version of every registered model, in the order of their names and numbers."""
    from mlflow import MlflowClient

    client = MlflowClient()
    aliases: dict[tuple[str, str], list[str]] = {}
    for model in _all(client.search_registered_models):
        for alias, number in model.aliases.items():
            aliases.setdefault((model.name, str(number)), []).append(alias)
    versions = (
        described(version, aliases.get((version.name, str(version.version)), ()))
        for version in _all(client.search_model_versions)
    )
    return sorted(versions, key=lambda one: (one.name, int(one.version)))


def described(version: Any, aliases: Iterable[str]) -> Version:
    """Say what a version of MLflow's is, which has these aliases."""
    return Version(
        name=version.name,
        version=str(version.version),
        aliases=sorted(aliases),
        digest=version.tags.get(DIGEST, ""),
        documents=version.tags.get(DOCUMENTS, ""),
        trained_on=[key for key in version.tags.get(TRAINED_ON, "").split(",") if key],
    )


def known_versions(home: Home) -> list[Version]:
    """List every version in the registry; none if nothing was ever tracked in `home`. Raises UserError if it does not answer."""
    place = os.environ.get("MLFLOW_TRACKING_URI", "")
    if str(home.mlflow_database) in place and not home.mlflow_database.exists():
        return []
    try:
        return all_versions()
    except Exception as error:  # it is away, its address is none, or its database is damaged
        raise unanswered(error) from error


def unanswered(error: Exception) -> UserError:
    """Say to a person that the registry failed, and how: that is no answer to what was asked."""
    place = os.environ.get("MLFLOW_TRACKING_URI", "")
    reason = str(error).strip().partition("\n")[0][:300]
    return UserError(
        f"the model registry at {place} does not answer: start it, or set MLFLOW_TRACKING_URI ({reason})"
    )


def _all(search: Callable[..., Any]) -> Iterator[Any]:
    """What all pages of a search hold."""
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return
