"""What was made of what: the results in a store, linked by the digests of what they were made from."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from leanpipe.core.store import MANIFEST, Manifest, Store, content_digest, digest_json

LEARNT = "train"

How = Literal["trained on it", "prepared from it", "measured on it", "measures a model trained on it"]

Uses = Mapping[str, How]
"""What a result has to do with a document that came into it by one of its inputs, by the split that the document is in."""

TRAINED_ON: Uses = {"train": "trained on it", "validation": "measured on it", "test": "measured on it"}
PREPARED_FROM: Uses = {"train": "prepared from it", "validation": "prepared from it"}
VALIDATED_ON: Uses = {"validation": "measured on it"}
TESTED_ON: Uses = {"test": "measured on it"}
MEASURES: Uses = {"train": "measures a model trained on it"}
NOTHING: Uses = {}
"""Of an input by which nothing of a document comes into the result."""


class Result(NamedTuple):
    """A published result."""

    stage: str
    key: str
    path: Path
    published: datetime
    config: dict[str, Any]
    inputs: dict[str, list[str]]
    """Digests of what it was made from, by role."""
    digests: frozenset[str]
    """Names by which other results and the registry may know it or a folder in it."""


class Use(NamedTuple):
    """A result that a document went into, or that was measured with it."""

    result: Result
    how: How


def read_results(store: Store) -> list[Result]:
    """Every published result, the oldest first. Reads manifests, not the files that they list."""
    results = (_result(path, manifest) for path, manifest in store.manifests())
    return sorted(results, key=lambda result: (result.published, result.key))


def uses(
    results: Sequence[Result], corpus: Result, split: str, uses_of: Callable[[str, str], Uses]
) -> list[Use]:
    """What was made, by way of any number of stages, of the documents in one split of `corpus`, in order of making.

    `uses_of` says of a stage's name and one of its inputs what comes of the documents in it. A model counts as trained on a
    document only if the document is in `train`. Of `validation` and `test` there are only results that were measured on it.
    """
    found: dict[str, Use] = {}
    takers, waiting = _takers(results), [corpus]
    while waiting:
        parent = waiting.pop()
        for child, role in (taker for digest in parent.digests for taker in takers.get(digest, ())):
            how = uses_of(child.stage, role).get(split)
            if how and child.key not in found:
                found[child.key] = Use(child, how)
                if how in ("trained on it", "prepared from it"):
                    waiting.append(child)
    return sorted(found.values(), key=lambda use: (use.result.published, use.result.key))


def learned_from(
    results: Sequence[Result], digests: Iterable[str], uses_of: Callable[[str, str], Uses]
) -> list[Result]:
    """Everything that came, by way of any number of stages, into what these digests name and that it learned from.

    The corpora among them are the results of `clean`. What lies outside of the store, or was deleted, leads no further.
    """
    by_digest = {digest: result for result in results for digest in result.digests}
    found: dict[str, Result] = {}
    waiting = list(digests)
    while waiting:
        result = by_digest.get(waiting.pop())
        if result is None or result.key in found:
            continue
        found[result.key] = result
        for role, given in result.inputs.items():
            if uses_of(result.stage, role).get(LEARNT) in ("trained on it", "prepared from it"):
                waiting += given
    return sorted(found.values(), key=lambda result: (result.published, result.key))


def _takers(results: Sequence[Result]) -> dict[str, list[tuple[Result, str]]]:
    """(result, role) of all that took something in, by its digest."""
    takers: dict[str, list[tuple[Result, str]]] = {}
    for result in results:
        for role, digests in result.inputs.items():
            for digest in digests:
                takers.setdefault(digest, []).append((result, role))
    return takers


def _result(path: Path, manifest: Manifest) -> Result:
    inputs = {
        role: [digests] if isinstance(digests, str) else list(digests)
        for role, digests in manifest.inputs.items()
    }
    return Result(
        manifest.stage,
        manifest.key,
        path,
        datetime.fromtimestamp((path / MANIFEST).stat().st_mtime, UTC),
        manifest.config,
        inputs,
        frozenset(_digests(manifest.files)),
    )


def _digests(files: dict[str, str]) -> Iterator[str]:
    """Of the whole, and of each folder in it: as `Artifact.inside` names it, and as `external` would."""
    whole = content_digest(files)
    yield whole
    for folder in {name.split("/")[0] for name in files if "/" in name}:
        yield digest_json([whole, folder])
        inside = {name: digest for name, digest in files.items() if name.startswith(f"{folder}/")}
        yield content_digest({name.removeprefix(f"{folder}/"): digest for name, digest in inside.items()})
