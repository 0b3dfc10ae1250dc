"""Publishes results as small as results can be, to ask what was made of what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leanpipe.core.store import Artifact, Manifest, Store, content_digest


def publish(
    store: Store,
    stage: str,
    files: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
    **inputs: Artifact | list[Artifact],
) -> Artifact:
    """A result of `stage` with these files (and whatever lies in its partial folder), made from `inputs`."""
    key = next_key(store, stage)
    for name, content in files.items():
        path = store.partial(stage, key) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    digests = {
        role: one.digest if isinstance(one, Artifact) else [each.digest for each in one]
        for role, one in inputs.items()
    }
    facts = {"summary": {}, "versions": {}, "seconds": 0.0, "peak_memory": 0}
    return store.publish(stage, key, config=dict(config or {}), inputs=digests, **facts)


def next_partial(store: Store, stage: str) -> Path:
    """The folder of which the next `publish` of `stage` makes a result."""
    return store.partial(stage, next_key(store, stage))


def next_key(store: Store, stage: str) -> str:
    return f"{stage}-{sum(1 for _ in store.root.glob('[!.]*/*'))}"


def manifests(store: Path) -> dict[str, Manifest]:
    """Every result in the folder of a store, by the digest of what is in it."""
    read = (Manifest.model_validate_json(path.read_text()) for path in store.glob("*/*/manifest.json"))
    return {content_digest(one.files): one for one in read}
