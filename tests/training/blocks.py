"""Tiny text as blocks: in memory, and as the folder that the tokenize stage writes."""

from pathlib import Path

import numpy as np

from leanpipe.tokens.blocks import Blocks
from leanpipe.tokens.pack import join, pack
from tests.tiny import tiny_text, tiny_tokenizer


def write_blocks(folder: Path, length: int = 32, documents: int = 12, vocabulary: int = 512) -> Path:
    """Some help topics for training, another one for validation."""
    tokenizer = tiny_tokenizer(vocabulary)
    texts = [text[:600] for text in tiny_text()]
    tokenizer.save_pretrained(folder / "tokenizer")
    for split, part in (("train", texts[:documents]), ("validation", texts[-1:])):
        row, starts = join([tokenizer.encode(text) for text in part], 0, vocabulary)
        blocks = pack(row, starts, length, 0)
        np.save(folder / f"{split}.tokens.npy", blocks.tokens)
        np.save(folder / f"{split}.positions.npy", blocks.positions)
    return folder


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
