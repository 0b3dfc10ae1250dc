"""Packed tokens as a dataset for training: memory-mapped, so that its size is no matter."""

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected

IGNORED = -100  # the label that cross-entropy in torch leaves out


class Blocks:
    """The blocks of one split ("train" or "validation") that stage `tokenize` wrote to `folder`, shard after shard."""

    def __init__(self, folder: Path, split: str):
        paths = sorted((folder / split).glob("*.tokens.npy"))
        if not paths:
            raise UserError(f"{folder} holds no {split} blocks: give a result of the stage tokenize")
        self._tokens = [np.load(path, mmap_mode="r") for path in paths]
        self._positions = [np.load(_positions_of(path), mmap_mode="r") for path in paths]
        self._ends = list(accumulate(len(tokens) for tokens in self._tokens))

    @property
    def block_length(self) -> int:
        """Number of tokens per block, T."""
        return self._tokens[0].shape[1]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> "dict[str, torch.Tensor]":
        """`input_ids`, `position_ids` and `labels` of one block, each int64 of shape (T,).

        Labels are the tokens themselves, for the loss shifts them. They are ignored wherever a position is 0: a
        document's first token must not be guessed from the document before it, nor padding from anything.
        """
        import torch

        shard, row = self._find(index)
        tokens = torch.from_numpy(self._tokens[shard][row].astype(np.int64))
        positions = torch.from_numpy(self._positions[shard][row].astype(np.int64))
        return {
            "input_ids": tokens,
            "position_ids": positions,
            "labels": tokens.masked_fill(positions == 0, IGNORED),
        }

    def _find(self, index: int) -> tuple[int, int]:
        """The shard that a block is in, and its row there."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        index %= len(self)
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard] - len(self._tokens[shard]))


def expected_blocks(folder: Path) -> Expected:
    """Return what a stage that is to read the blocks in `folder` is told of them before."""
    return Expected(folder, {"block_length": Blocks(folder, "train").block_length})


def _positions_of(tokens: Path) -> Path:
    return tokens.with_name(tokens.name.replace(".tokens.", ".positions."))
