"""Tiny text as blocks: in memory, and as the folder that the tokenize stage writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leanpipe.tokens.blocks import Blocks
from leanpipe.tokens.pack import lay_out_blocks, plan_packing
from tests.support.tiny_models import tiny_text, tiny_tokenizer


def write_blocks(folder: Path, length: int = 32, documents: int = 12, vocabulary: int = 512) -> Path:
    """Some help topics for training, another one for validation, in a row, cut at every `length` tokens."""
    tokenizer = tiny_tokenizer(vocabulary)
    texts = [text[:600] for text in tiny_text()]
    tokenizer.save_pretrained(folder / "tokenizer")
    for split, part in (("train", texts[:documents]), ("validation", texts[-1:])):
        save_blocks(folder / split / "00000", [tokenizer.encode(text) for text in part], length, vocabulary)
    return folder


def save_blocks(place: Path, documents: Sequence[Sequence[int]], length: int, vocabulary: int) -> None:
    """One shard of blocks; documents lie between separators, which are token 0."""
    place.parent.mkdir(parents=True, exist_ok=True)
    row = np.concatenate([[0, *tokens, 0] for tokens in documents])
    # What fills no block is dropped, unless it is all there is.
    pieces = plan_packing(np.array([len(tokens) + 2 for tokens in documents]), length, "concatenate", 0)
    tokens, positions = (
        np.concatenate(arrays)
        for arrays in zip(*lay_out_blocks(row, pieces, length, 0, vocabulary), strict=True)
    )
    whole = max(1, len(row) // length)
    np.save(f"{place}.tokens.npy", tokens[:whole])
    np.save(f"{place}.positions.npy", positions[:whole])


def tiny_blocks(folder: Path, split: str = "train", **sizes: int) -> Blocks:
    return Blocks(write_blocks(folder, **sizes), split)


class Recorder:
    """A report that remembers."""

    def __init__(self) -> None:
        self.values: list[tuple[int | None, dict[str, float]]] = []
        self.done: list[tuple[float, float, str]] = []

    def metrics(self, values, step=None) -> None:
        self.values.append((step, dict(values)))

    def progress(self, done, total, what) -> None:
        self.done.append((done, total, what))

    def series(self, name: str) -> dict[int | None, float]:
        return {step: values[name] for step, values in self.values if name in values}
