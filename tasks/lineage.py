"""What became of a document: the account of every cleaned corpus, what was made of it since, and which models came of that."""

import importlib
import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from leanpipe.core import lineage
from leanpipe.core.home import Home
from leanpipe.core.lineage import Result
from leanpipe.core.stage import known_stages
from leanpipe.core.store import Store
from leanpipe.corpus.report import find_document as lookup
from leanpipe.corpus.report.find_document import AccountRow
from leanpipe.corpus.rule_names import rule_bound
from tasks.tracking.versions import Version, known_versions

_MODULES_OF_STAGES = ("leanpipe.settings.flows", "leanpipe.planning.preflight", "leanpipe.assets.resolve")
"""What imports every stage there is: those with settings, the check, and those that make a model that was asked for by name."""


class Made(BaseModel):
    """A result that has to do with a document."""

    stage: str
    key: str
    published: datetime
    how: lineage.How
    models: list[Version]
    """The versions that it was registered as."""


class Fate(BaseModel):
    """What became of one document in one cleaning of a corpus."""

    corpus: str
    """Key of the result of `clean`."""
    published: datetime
    document: dict[str, Any]
    """Its row of the account."""
    bound: Any = None
    """What the rule that dropped it allows."""
    kept_as: str = ""
    """Id of the document that stayed in its place, if it repeats one; `made` is then what was made of that."""
    split: str = ""
    """Where it, or what stayed in its place, went."""
    made: list[Made] = []
    models: list[Version] = []
    """Every registered version that was trained on it, or on what stayed in its place."""


class Lineage(BaseModel):
    """The answer to `leanpipe lineage`."""

    asked: str
    found_by: str = ""
    """`id, digest or file`, `path` or `phrase`; nothing if it was not found."""
    corpora: int
    """How many results of `clean` were searched."""
    fates: list[Fate] = []
    more: bool = False
    """Whether there are more than were asked for."""
    unknown: list[Version] = []
    """Registered versions of which the store no longer knows what they were made from."""


def trace(home: Home, wanted: str, most: int) -> Lineage:
    """Find up to `most` documents that answer to `wanted`, each in every corpus that it was in."""
    results = lineage.read_results(Store(home.store))
    corpora = [result for result in results if result.stage == "clean"]
    found_by, found = next(((by, rows) for by, rows in _searches(corpora, wanted, most) if rows), ("", []))
    if not found:
        return Lineage(asked=wanted, corpora=len(corpora))
    versions = known_versions(home)
    made = _Made(results, versions)
    return Lineage(
        asked=wanted,
        found_by=found_by,
        corpora=len(corpora),
        fates=[_fate(corpus, row, made) for corpus, row in found[:most]],
        more=len(found) > most,
        unknown=[version for version in versions if not made.knows(version)],
    )


def _searches(
    corpora: Sequence[Result], wanted: str, most: int
) -> Iterator[tuple[str, list[tuple[Result, AccountRow]]]]:
    """What each way of searching finds, the most certain way first; one more than `most` if there are more."""

    def among(find: Any, *arguments: Any) -> list[tuple[Result, AccountRow]]:
        rows = ((corpus, row) for corpus in corpora for row in find(corpus.path, wanted, *arguments))
        return list(itertools.islice(rows, most + 1))

    yield "id, digest or file", among(lookup.find_exactly)
    yield "path", among(lookup.find_by_path)
    yield "phrase", among(lookup.find_by_phrase, most + 1)


class _Made:
    """What was made of a split of a corpus, looked up once."""

    def __init__(self, results: Sequence[Result], versions: Sequence[Version]):
        self._results = results
        self._versions = versions
        self._known = {digest for result in results for digest in result.digests}
        self._cache: dict[tuple[str, str], list[Made]] = {}

    def of(self, corpus: Result, split: str) -> list[Made]:
        if not split:
            return []
        place = (corpus.key, split)
        if place not in self._cache:
            self._cache[place] = [
                self._one(use) for use in lineage.uses(self._results, corpus, split, uses_of)
            ]
        return self._cache[place]

    def models(self, corpus: Result, split: str) -> list[Version]:
        """Those trained on the split: what the store links to it, and what was registered as made from it."""
        if split != lineage.LEARNT:
            return []
        linked = [
            version
            for made in self.of(corpus, split)
            if made.how == "trained on it"
            for version in made.models
        ]
        named = [version for version in self._versions if version.documents in corpus.digests]
        return linked + [version for version in named if version not in linked]

    def knows(self, version: Version) -> bool:
        return bool(self._known & {version.digest, version.documents})

    def _one(self, use: lineage.Use) -> Made:
        models = [version for version in self._versions if version.digest in use.result.digests]
        return Made(
            stage=use.result.stage,
            key=use.result.key,
            published=use.result.published,
            how=use.how,
            models=models,
        )


def uses_of(stage: str, role: str) -> lineage.Uses:
    """What comes of the documents in one input of a stage; the worst is assumed of a stage that is not known any more."""
    for module in _MODULES_OF_STAGES:
        importlib.import_module(module)
    known = known_stages().get(stage)
    return known.uses(role) if known else lineage.TRAINED_ON


def _fate(corpus: Result, row: AccountRow, made: _Made) -> Fate:
    stayed = next(lookup.find_exactly(corpus.path, row.copy_of), None) if row.copy_of else None
    split = (stayed or row).split
    return Fate(
        corpus=corpus.key,
        published=corpus.published,
        document=row._asdict(),
        bound=rule_bound(corpus.config, row.rule) if row.rule else None,
        kept_as=stayed.id if stayed else "",
        split=split,
        made=made.of(corpus, split),
        models=made.models(corpus, split),
    )
