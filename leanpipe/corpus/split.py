"""Which documents are learnt from, which are measured on while learning, and which only at the end.

A document may move from test to validation to train, and never back: see `earlier_splits`.
"""

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from leanpipe.core.config import StageConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")


class SplitConfig(StageConfig):
    """Shares of the documents that are held out; the rest is for training."""

    validation: float = Field(0.05, gt=0, le=0.45)
    """Share of documents that are measured on while a model learns."""
    test: float = Field(0.05, gt=0, le=0.45)
    """Share of documents that finished models are compared on."""


def split_of(text_hash: bytes, config: SplitConfig) -> int:
    """Return the split of a text as a place in `SPLITS`: it follows from the text's hash alone.

    The hash's first 8 bytes are read as a number between 0 and 1: test, then validation, then train. So it is the same in
    every run and every corpus.
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
