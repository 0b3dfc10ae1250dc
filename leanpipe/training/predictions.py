"""What a teacher predicts, kept on disk: of each token the k most likely ones, and of all others together their mass.

A record is (id bytes + 1) x k + 4 bytes: the ids, in as many bytes as the vocabulary needs; -ln p of each in one byte; and
two numbers of the tail, in two bytes each. A file of predictions holds records (blocks, T - 1, bytes): block by block, the
record at t says what the teacher predicts of the token at t + 1. A folder holds the files of one teacher on one set of
blocks, and `predictions.json`.

Letters in names: N records, K tokens of each, C x V a chunk of logits.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from leanpipe.errors import UserError
from leanpipe.training.divergences import FLOOR
from leanpipe.training.losses import at_least_float32, flat, log

INFO = "predictions.json"
RECORDS = "predictions"
"""The name under which an item of `Taught` has its records."""
_FINEST = 64.0
"""-ln p is kept as the square root's 64th part: the error is 1/64 of the root, 0.002 at p = 0.98 and 0.06 at the least p
that can be told from 0, e^-15.9."""


class Format(BaseModel):
    """How records are laid out; `predictions.json`."""

    model_config = ConfigDict(frozen=True)

    top_k: int
    vocabulary: int
    """Tokens that the teacher can predict; what its logits are padded with is left out."""
    blocks: int
    block_length: int

    @property
    def k(self) -> int:
        return min(self.top_k, self.vocabulary)

    @property
    def id_bytes(self) -> int:
        return max(1, math.ceil(math.log2(self.vocabulary) / 8))

    @property
    def record_bytes(self) -> int:
        return self.k * (self.id_bytes + 1) + 4

    @property
    def bytes(self) -> int:
        """Of all files."""
        return self.blocks * (self.block_length - 1) * self.record_bytes

    def encode(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """Records (C, bytes), uint8, of a teacher's logits, which may be wider than the vocabulary."""
        p_CV = torch.softmax(at_least_float32(logits_CV[:, : self.vocabulary]), dim=-1)
        top_CK, ids_CK = p_CV.topk(self.k, dim=-1)
        p_CV.put_(flat(ids_CK, self.vocabulary), p_CV.new_zeros(()).expand(ids_CK.numel()))
        tail_C2 = torch.stack([p_CV.sum(-1), p_CV.sqrt_().sum(-1)], dim=-1)
        shifts = torch.arange(self.id_bytes, device=ids_CK.device) * 8
        ids = (ids_CK[..., None] >> shifts & 255).to(torch.uint8).flatten(1)
        codes = ((-log(top_CK)).clamp_(min=0).sqrt_() * _FINEST).round_().clamp_(max=255).to(torch.uint8)
        tail = log(tail_C2).clamp_(min=FLOOR).half().view(torch.uint8)
        return torch.cat([ids, codes, tail], dim=-1)

    def decode(self, records_NR: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (N, K), and ln p of them and, last, of all others (N, K + 1), softened by `temperature`, in float32."""
        k = self.k
        ids, codes, tail = records_NR.split([k * self.id_bytes, k, 4], dim=-1)
        shifts = torch.arange(self.id_bytes, device=ids.device) * 8
        ids_NK = (ids.reshape(-1, k, self.id_bytes).long() << shifts).sum(-1)
        top_NK = -((codes.float() / _FINEST) ** 2)
        tail_N2 = tail.contiguous().view(torch.float16).float()
        tail_N = softened_tail(tail_N2, top_NK[:, -1], self.vocabulary - k, 1 / temperature)
        both_NM = torch.cat([top_NK / temperature, tail_N[:, None]], dim=-1)
        return ids_NK, torch.log_softmax(both_NM, dim=-1).clamp_(min=FLOOR)


def softened_tail(tail_N2: torch.Tensor, least_N: torch.Tensor, tokens: int, power: float) -> torch.Tensor:
    """ln of the sum of p^power over the `tokens` tokens of the tail, of which ln of two such sums is known.

    `tail_N2` has them for power 1 (its mass) and 1/2; for power 0 it is ln(tokens). As a function of the power it is smooth
    and convex (a cumulant generating function), so for what lies between a parabola goes through these three: exact at
    temperatures 1, 2 and infinity. Below temperature 1 it goes on in a straight line, at a slope halfway between the least
    that is possible, which is that of the chord, and the most, by which every p of the tail is the least that was kept.
    """
    one_N, half_N = tail_N2.unbind(-1)
    if tokens == 0:
        return torch.full_like(one_N, FLOOR)
    if power > 1:
        return one_N + (power - 1) * (2 * (one_N - half_N) + least_N) / 2
    zero = math.log(tokens)
    curve_N = 2 * (one_N - 2 * half_N + zero)
    return zero + power * (one_N - zero) + power * (power - 1) * curve_N


class Predictions:
    """The folder that stage `cache_teacher` wrote: memory-mapped, block after block."""

    def __init__(self, folder: Path):
        if not (folder / INFO).exists():
            raise UserError(
                f"{folder} holds no teacher's predictions: give a result of the stage cache_teacher"
            )
        self.format = Format.model_validate_json((folder / INFO).read_text())
        self._files = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
        self._starts = np.cumsum([0, *map(len, self._files)]).tolist()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> torch.Tensor:
        """Records of one block (T - 1, bytes), uint8."""
        file = bisect_right(self._starts, index) - 1
        return torch.from_numpy(self._files[file][index - self._starts[file]].copy())


class Taught:
    """Blocks, each with what the teacher predicts in it."""

    def __init__(self, blocks: Any, predictions: Predictions):
        if len(blocks) > len(predictions):
            raise UserError(
                f"the teacher's predictions are of {len(predictions)} blocks, but {len(blocks)} are to be learnt: "
                "make them again for this length of training"
            )
        self._blocks, self._predictions = blocks, predictions

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Mapping[str, torch.Tensor]:
        return {**self._blocks[index], RECORDS: self._predictions[index]}
