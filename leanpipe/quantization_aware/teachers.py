"""Who teaches a rounded model: of text the teacher that was asked before, of conversations the model itself, unrounded."""

from collections.abc import Mapping
from typing import Any

import torch

from leanpipe.training.distill.teacher_logprobs import RECORDS
from leanpipe.training.losses.objectives import Batch, Objective

_TOLD = "told"
"""The name under which an item of a training says whether the teacher was asked of it before."""


class ToldOrNot:
    """Blocks, each with what a teacher predicted in it before (`told`), or with as much of nothing."""

    def __init__(self, blocks: Any, record_bytes: int, told: bool):
        self._blocks, self._record_bytes, self._told = blocks, record_bytes, told

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Mapping[str, torch.Tensor]:
        block = self._blocks[index]
        nothing = torch.zeros(len(block["input_ids"]) - 1, self._record_bytes, dtype=torch.uint8)
        return {RECORDS: nothing, **block, _TOLD: torch.tensor(self._told)}


class ByKind:
    """Sums one objective over the blocks of which a teacher was asked before, and another over all others."""

    def __init__(self, told: Objective, others: Objective):
        self._told, self._others = told, others

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        sums: dict[str, torch.Tensor] = {}
        for objective, rows in ((self._told, batch[_TOLD]), (self._others, ~batch[_TOLD])):
            if rows.any():
                part = {name: value[rows] for name, value in batch.items()}
                for name, value in objective(model, part).items():
                    sums[name] = sums.get(name, 0) + value
        return sums
