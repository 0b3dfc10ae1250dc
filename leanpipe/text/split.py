"""Which documents are learnt from, which are measured on while learning, and which only at the end."""

from collections.abc import Iterable

from pydantic import Field

from leanpipe.config import StageConfig
from leanpipe.text.document import Document

SPLITS = ("train", "validation", "test")


class SplitConfig(StageConfig):
    """Shares of the documents that are held out; the rest is for training."""

    validation: float = Field(0.05, gt=0, le=0.45)
    """Share of documents that are measured on while a model learns."""
    test: float = Field(0.05, gt=0, le=0.45)
    """Share of documents that finished models are compared on."""


def split(documents: Iterable[Document], config: SplitConfig) -> dict[str, list[Document]]:
    """The documents of each split, in their own order.

    A document's split follows from its text alone, so it is the same in every run and every corpus. Only where that
    leaves a split empty, the documents with the smallest hashes of the largest split are moved into it.
    """
    splits: dict[str, list[Document]] = {name: [] for name in SPLITS}
    for document in documents:
        splits[split_of(document.text_hash, config)].append(document)
    for name in SPLITS:
        if not splits[name]:
            _move_one(max(splits.values(), key=len), splits[name])
    return splits


def split_of(text_hash: bytes, config: SplitConfig) -> str:
    """The split by the hash's first 8 bytes, read as a number between 0 and 1: test, then validation, then train."""
    position = int.from_bytes(text_hash[:8], "big") / 2**64
    if position < config.test:
        return "test"
    return "validation" if position < config.test + config.validation else "train"


def _move_one(source: list[Document], target: list[Document]) -> None:
    if len(source) > 1:
        moved = min(source, key=lambda document: document.text_hash)
        source.remove(moved)
        target.append(moved)
