"""Which documents are learnt from, which are measured on while learning, and which only at the end.

A document may move from test to validation to train, and never back: see `earlier_splits`.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.corpus.sources.file_index import SourceFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
MOST_TEST = 0.2
"""Share of a small corpus's documents that are held out for the test, at the most."""
_OF_MANY = ("jsonl", "csv", "parquet", "mbox", "warc")
"""Kinds of files that hold a document in each record."""
_RECORD_BYTES, _COMPRESSED = 4_096, 4
"""Bytes of a record, and how many times as long compressed text is: about, for how many there are is known when they are read."""


class SplitConfig(StageConfig):
    """Shares of the documents that are held out; the rest is for training."""

    validation: float = Field(0.05, gt=0, le=0.45)
    """Share of documents that are measured on while a model learns."""
    test: float = Field(0.05, gt=0, le=0.45)
    """Share of documents that finished models are compared on."""
    min_test_documents: int = Field(100, ge=0, le=1_000_000)
    """Finished models are compared on at least about so many documents, for on a few nothing can be decided: where `test` is a
    share of fewer, up to a fifth of the documents are held out."""

    def of_corpus(self, files: Iterable[SourceFile], lines: bool = False) -> "SplitConfig":
        """Return the shares for a corpus of these files; of a small one more is held out for the test.

        They follow from the files alone, so that all machines that work on the corpus agree, and a larger corpus never has a
        larger share. `lines` says that each line of a text file is a document. Of files of unknown size there may be any number.
        """
        expected = sum(_expected_documents(file, lines) for file in files)
        least = min(MOST_TEST, self.min_test_documents / max(1.0, expected))
        return self.model_copy(update={"test": max(self.test, least)})


def _expected_documents(file: SourceFile, lines: bool) -> float:
    """About how many documents a file holds."""
    if file.kind not in _OF_MANY and not (lines and file.kind == "text"):
        return 1.0
    if not file.size:
        return float("inf")
    return max(1.0, file.size * (_COMPRESSED if file.compression else 1) / _RECORD_BYTES)


def split_of(text_hash: bytes, config: SplitConfig) -> int:
    """Return the split of a text as a place in `SPLITS`: it follows from the text's hash alone.

    The hash's first 8 bytes are read as a number between 0 and 1: test, then validation, then train. So with the same
    shares it is the same in every run and every corpus.
    """
    position = int.from_bytes(text_hash[:8], "big") / 2**64
    if position < config.test:
        return 2
    return 1 if position < config.test + config.validation else 0


def fill_empty_splits(
    splits: "NDArray[np.uint8]", hashes: "NDArray[np.uint64]", last: "NDArray[np.uint8] | None" = None
) -> "NDArray[np.uint8]":
    """Move, where chance leaves a split without a document, the one with the least hash of the largest split there.

    All are of shape (documents,). `last` is the last split that each may go to, for what an earlier corpus had in one.
    """
    splits = splits.copy()
    last = np.full_like(splits, len(SPLITS) - 1) if last is None else last
    for empty in range(len(SPLITS)):
        counts = np.bincount(splits, minlength=len(SPLITS))
        movable = np.flatnonzero((splits == counts.argmax()) & (last >= empty))
        if counts[empty] == 0 and counts.max() > 1 and len(movable):
            splits[movable[hashes[movable].argmin()]] = empty
    return splits
