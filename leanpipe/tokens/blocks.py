"""Packed tokens as a dataset for training: memory-mapped, so that its size is no matter."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

from leanpipe.errors import UserError

IGNORED = -100  # the label that cross-entropy in torch leaves out


class Blocks:
    """The blocks of one split ("train" or "validation") that stage `tokenize` wrote to `folder`."""

    def __init__(self, folder: Path, split: str):
        try:
            self._tokens = np.load(folder / f"{split}.tokens.npy", mmap_mode="r")
            self._positions = np.load(folder / f"{split}.positions.npy", mmap_mode="r")
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} holds no {split} blocks: give a result of the stage tokenize"
            ) from error

    @property
    def block_length(self) -> int:
        """Tokens per block, T."""
        return self._tokens.shape[1]

    def __len__(self) -> int:
        return self._tokens.shape[0]

    def __getitem__(self, index: int) -> "dict[str, torch.Tensor]":
        """`input_ids`, `position_ids` and `labels` of one block, each int64 of shape (T,).

        Labels are the tokens themselves, for the loss shifts them. They are ignored wherever a position is 0: a
        document's first token must not be guessed from the document before it, nor padding from anything.
        """
        import torch

        tokens = torch.from_numpy(self._tokens[index].astype(np.int64))
        positions = torch.from_numpy(self._positions[index].astype(np.int64))
        return {
            "input_ids": tokens,
            "position_ids": positions,
            "labels": tokens.masked_fill(positions == 0, IGNORED),
        }
