"""Splits grow without moving a document from train to test: what was learned from once is never measured on again.

A text's hash decides its split, so the same shares give the same splits in every corpus. With a larger share of test some
documents change sides that models have learned from, for a larger share has to come from somewhere: from a setting, or from
a corpus that became so small that more of it is held out (`SplitConfig.of_corpus`). So `clean` looks among
the earlier results in its store for those of the same corpus whose shares differ that way, and takes them as an input:
a document may move from test to validation to train, and never back. A larger share is then that of new documents alone,
and of the whole corpus once most of it is new.

That costs reading those results, and a corpus that only grew is then read anew if one of them grew, too. What was deleted
from the store is forgotten. In corpora of a few dozen documents, where chance leaves a split empty, one document is moved
there (`fill_empty_splits`), and it may be one that other shares had in train. Settings and versions that change a text change its hash: of
such a text the split is drawn anew, unless shares changed, too. In both cases the gate compares models on other documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from leanpipe.core.stage import Inputs, Stage, several
from leanpipe.core.store import Artifact, Manifest, Store
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.passes.publish import BaseCorpus
from leanpipe.corpus.sources.file_index import FileIndex
from leanpipe.corpus.split import SPLITS, SplitConfig
from leanpipe.corpus.split_members import split_digests

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAYED = "documents that stay in train or validation, where an earlier split had them"
"""What they are called where they are counted."""
_REMEMBERED = SPLITS[:-1]
"""Splits out of which nothing moves to a later one."""


def find_earlier_splits(
    stage: Stage, store: Store, config: CleanConfig, inputs: Inputs
) -> tuple[Artifact, ...]:
    """Find the earlier results of `clean` that hold some of the corpus, in splits that these settings might contradict."""
    files = [file for one in several(inputs, "corpus") for file in FileIndex.load(one.path).files]
    known, shares = {file.digest for file in files} | {file.source for file in files}, config.of_corpus(files)
    keys = []
    for path, manifest in store.manifests(stage.name):
        held = _load(path)
        if held and _may_contradict(manifest, held, shares.split) and _holds_some(held, known):
            keys.append(manifest.key)
    found = (store.find(stage.name, key) for key in keys)
    # Once each, so that shares that contradict each other in turn come to an end.
    by_digest = {one.digest: one for one in found if one}
    return tuple(by_digest[digest] for digest in sorted(by_digest))


def _load(result: Path) -> BaseCorpus | None:
    """Which files a result was made of; None for one that does not say so."""
    try:
        return BaseCorpus.load(result)
    except (OSError, ValueError, KeyError):
        return None


def _may_contradict(manifest: Manifest, held: BaseCorpus, shares: SplitConfig) -> bool:
    """Whether a result has documents in train or validation that these shares might put in a later split."""
    try:
        earlier = SplitConfig.model_validate(manifest.config.get("split"))
    except ValidationError:  # of a commit that split in other ways
        return False
    if held.test is not None:
        earlier = earlier.model_copy(update={"test": held.test})
    return earlier.test < shares.test or _held_out(earlier) < _held_out(shares)


def _held_out(config: SplitConfig) -> float:
    return config.test + config.validation


def _holds_some(held: BaseCorpus, known: set[str]) -> bool:
    """Whether a result was made of a file with one of these digests or names: of a table that grew the name is the same."""
    return any(source in known or digest in known for _, source, digest in held.files)


@dataclass(frozen=True)
class EarlierSplits:
    """What earlier results had in train and in validation, by the digests of `Members`, in rising order."""

    digests: "tuple[NDArray[np.uint64], ...]"
    """For each of `_REMEMBERED`."""

    @classmethod
    def gather(cls, results: Sequence[Path], folder: Path) -> "EarlierSplits":
        """Read what the results of `clean` at `results` had in which split, and write it to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for split in _REMEMBERED:
            digests = np.unique(np.concatenate([split_digests(result, [split]) for result in results]))
            np.save(folder / f"{split}.npy", digests)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> "EarlierSplits":
        """Map what `gather` wrote into memory."""
        return cls(tuple(np.load(folder / f"{split}.npy", mmap_mode="r") for split in _REMEMBERED))

    def last_of(self, digests: "NDArray[np.uint64]") -> "NDArray[np.uint8]":
        """Return, as places in `SPLITS`, the last splits that documents with these digests may go to: shape (n,)."""
        last: NDArray[np.uint8] = np.full(len(digests), len(SPLITS) - 1, np.uint8)
        for place, known in reversed(list(enumerate(self.digests))):
            at = np.minimum(np.searchsorted(known, digests), max(len(known) - 1, 0))
            if len(known):
                last[known[at] == digests] = place
        return last
