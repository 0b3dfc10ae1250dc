"""Which held-out documents a model has learned from: on those nothing may be decided about it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from leanpipe.core import lineage
from leanpipe.core.store import Store
from leanpipe.corpus.split_members import find_members, split_digests
from leanpipe.evaluation.verdict import LeftOut
from tasks.lineage import uses_of

_LEARNED = ("train", "validation")
"""Splits that a model learned from, or that its best moment was chosen by."""


class Origin(NamedTuple):
    """What is known of the text that a model learned from."""

    model: str
    """What the model is called in a sentence."""
    corpora: tuple[Path, ...]
    """Results of `clean`."""
    unknown: bool
    """Whether there may be others."""


def corpora_of(store: Store, digests: Collection[str]) -> list[str]:
    """Keys of the cleaned corpora in the store that the models and corpora of these digests came from."""
    results = lineage.learned_from(lineage.read_results(store), digests, uses_of)
    return [result.key for result in results if result.stage == "clean"]


def origin_of(store: Store, model: str, digests: Collection[str], keys: Collection[str]) -> Origin:
    """Find the text of a model by its digests, and by the keys of its corpora if those were written down."""
    corpora = {*corpora_of(store, digests), *keys}
    there = sorted(key for key in corpora if store.has("clean", key))
    paths = tuple(store.path("clean", key) for key in there)
    return Origin(model, paths, unknown=not corpora or len(there) < len(corpora))


def find_learned(documents: Path, origins: Sequence[Origin]) -> LeftOut:
    """Name the held-out documents of the cleaned corpus `documents` that one of the models learned from."""
    learned: set[str] = set()
    unknown = [origin.model for origin in origins if origin.unknown]
    for corpus, model in {corpus: origin.model for origin in origins for corpus in origin.corpora}.items():
        try:
            learned |= set(find_members(documents, "test", split_digests(corpus, _LEARNED)))
        except (OSError, ValueError):  # somebody deleted files of the corpus
            unknown.append(model)
    remarks = [f"What {model} learned from is not known here." for model in dict.fromkeys(unknown)]
    return LeftOut(frozenset(learned), tuple(remarks))
