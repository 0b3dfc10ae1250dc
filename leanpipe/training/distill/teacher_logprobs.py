"""What a teacher predicts, kept on disk: of each token the k most likely ones, and of all others their mass and a sample.

The sample matters: a student that is told the most likely tokens and the mass of the rest never learns how that mass is
distributed, and keeps whatever it believed of the tail. Drawn by their own probability, each sampled token stands for an
equal part of the mass, and what is learnt from them is, on average, exactly what all logits teach (Anshumann et al. 2025,
"Sparse Logit Sampling", arXiv 2503.16870).

A record is (id bytes + 1) x (k + samples) + 4 bytes: the ids, in as many bytes as the vocabulary needs; -ln p of each in one
byte; and two numbers of the tail, in two bytes each. A file of predictions holds records (blocks, T - 1, bytes): block by block, the
record at t says what the teacher predicts of the token at t + 1. A folder holds the files of one teacher on one set of
blocks, and `predictions.json`.

Letters in names: N records, K most likely tokens, S sampled ones, J both, C x V a chunk of logits.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from leanpipe.core.errors import UserError
from leanpipe.training.losses.chunked_loss import at_least_float32, flat, log
from leanpipe.training.losses.divergences import FLOOR

INFO = "predictions.json"
"""Named as results of stage `cache_teacher` that lie in stores have it."""
RECORDS = "teacher_logprobs"
"""The name under which an item of `WithTeacherLogprobs` has its records."""
_FINEST = 64.0
"""-ln p is kept as the square root's 64th part: the error is 1/64 of the root, 0.002 at p = 0.98 and 0.06 at the least p
that can be told from 0, e^-15.9."""

_GROUP = 256
"""Tokens of the vocabulary that are looked at together, to find the few that are kept."""
_ROWS = {"cpu": 32, "cuda": 4_096}
"""Tokens that are encoded at once: on a processor their probabilities should stay in its caches."""


class DecodedLogprobs(NamedTuple):
    """What N records say, softened by a temperature. All in float32."""

    ids_NJ: torch.Tensor
    """The most likely tokens, then the sampled ones, of which some may be the same."""
    log_p_NJ: torch.Tensor
    """ln of what the teacher gives to each."""
    weights_NJ: torch.Tensor
    """What each stands for in a sum over all tokens: its own probability, or a part of the tail's. Together 1."""
    buckets_NM: torch.Tensor
    """ln p of each of the K most likely tokens and, last, of all others: M = K + 1."""

    def rows(self, rows: slice) -> "DecodedLogprobs":
        """Return some of the N records."""
        return DecodedLogprobs(*(each[rows] for each in self))


class LogprobFormat(BaseModel):
    """How records are laid out; `predictions.json`."""

    model_config = ConfigDict(frozen=True)

    top_k: int
    tail_samples: int
    vocabulary: int
    """Tokens that the teacher can predict; what its logits are padded with is left out."""
    blocks: int
    block_length: int

    @property
    def k(self) -> int:
        """Most likely tokens in a record, K: no more than there are."""
        return min(self.top_k, self.vocabulary)

    @property
    def tokens(self) -> int:
        """Tokens in a record, J: the most likely and the sampled ones."""
        return self.k + self.tail_samples

    @property
    def id_bytes(self) -> int:
        """Bytes that a token's id takes."""
        return max(1, math.ceil(math.log2(self.vocabulary) / 8))

    @property
    def record_bytes(self) -> int:
        """Bytes that a record takes."""
        return self.tokens * (self.id_bytes + 1) + 4

    @property
    def bytes(self) -> int:
        """Bytes of all records."""
        return self.blocks * (self.block_length - 1) * self.record_bytes

    def encode(self, logits_CV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Encode a teacher's logits as records (C, bytes), uint8; the logits may be wider than the vocabulary.

        `generator`, of the CPU, decides what is sampled.
        """
        parts = [
            self._encode(rows_CV, generator) for rows_CV in logits_CV.split(_ROWS[logits_CV.device.type])
        ]
        return torch.cat(parts)

    def _encode(self, logits_CV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        p_CV = torch.softmax(at_least_float32(logits_CV[:, : self.vocabulary]), dim=-1)
        top_CK, top_ids_CK = largest(p_CV, self.k)
        p_CV.put_(flat(top_ids_CK, self.vocabulary), p_CV.new_zeros(()).expand(top_ids_CK.numel()))
        sampled_CS = sample(p_CV, self.tail_samples, generator)
        ids_CJ = torch.cat([top_ids_CK, sampled_CS], dim=-1)
        p_CJ = torch.cat([top_CK, p_CV.gather(1, sampled_CS)], dim=-1)
        tail_C2 = torch.stack([p_CV.sum(-1), p_CV.sqrt_().sum(-1)], dim=-1)
        shifts = torch.arange(self.id_bytes, device=ids_CJ.device) * 8
        ids = (ids_CJ[..., None] >> shifts & 255).to(torch.uint8).flatten(1)
        codes = ((-log(p_CJ)).clamp_(min=0).sqrt_() * _FINEST).round_().clamp_(max=255).to(torch.uint8)
        tail = log(tail_C2).clamp_(min=FLOOR).half().view(torch.uint8)
        return torch.cat([ids, codes, tail], dim=-1)

    def decode(self, records_NR: torch.Tensor, temperature: float) -> DecodedLogprobs:
        """Decode records, softened by `temperature`."""
        tokens, power = self.tokens, 1 / temperature
        ids, codes, tail = records_NR.split([tokens * self.id_bytes, tokens, 4], dim=-1)
        shifts = torch.arange(self.id_bytes, device=ids.device) * 8
        ids_NJ = (ids.reshape(-1, tokens, self.id_bytes).long() << shifts).sum(-1)
        kept_NJ = -((codes.float() / _FINEST) ** 2)
        top_NK, sampled_NS = kept_NJ.split([self.k, self.tail_samples], dim=-1)
        tail_N2 = tail.contiguous().view(torch.float16).float()
        tail_N = softened_tail(tail_N2, top_NK[:, -1], self.vocabulary - self.k, power)
        both_NM = torch.cat([power * top_NK, tail_N[:, None]], dim=-1)
        total_N1 = both_NM.logsumexp(-1, keepdim=True)
        buckets_NM = (both_NM - total_N1).clamp_(min=FLOOR)
        # Drawn by p, they stand for p^power by importance. At temperature 1 all weigh the same.
        of_tail_NS = torch.softmax((power - 1) * sampled_NS, -1) * buckets_NM[:, -1:].exp()
        return DecodedLogprobs(
            ids_NJ,
            (power * kept_NJ - total_N1).clamp_(min=FLOOR),
            torch.cat([buckets_NM[:, :-1].exp(), of_tail_NS], dim=-1),
            buckets_NM,
        )


def largest(p_CV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the largest entries of each row and their places, (C, count) each, as `topk` does but in one pass.

    They lie in as many groups at most, those with the largest maxima.
    """
    groups_CGW = _groups(p_CV)
    peaks_CG = groups_CGW.amax(-1)
    numbers_CK = peaks_CG.topk(min(count, peaks_CG.shape[1]), dim=-1).indices
    near_CKW = _take(groups_CGW, numbers_CK)
    values_CK, places_CK = near_CKW.flatten(1).topk(count, dim=-1)
    width = groups_CGW.shape[2]
    return values_CK, numbers_CK.gather(1, places_CK // width) * width + places_CK % width


def sample(p_CV: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` entries of each row (C, count) by p with replacement, spread evenly over its cumulative sum.

    Such a systematic sample is unbiased, and hits whatever has more than 1/count of the mass for sure. The cumulative sum is
    made of groups first, and within those that were hit.
    """
    groups_CGW = _groups(p_CV)
    upto_CG = groups_CGW.sum(-1).cumsum(-1)
    start_C1 = torch.rand(len(p_CV), 1, generator=generator).to(p_CV.device)
    steps_S = torch.arange(count, device=p_CV.device)
    wanted_CS = (steps_S + start_C1) / max(1, count) * upto_CG[:, -1:]
    numbers_CS = _first_above(upto_CG, wanted_CS)
    before_CG = torch.nn.functional.pad(upto_CG, (1, -1))
    within_CSW = _take(groups_CGW, numbers_CS).cumsum(-1)
    rest_CS1 = (wanted_CS - before_CG.gather(1, numbers_CS))[..., None]
    places_CS = _first_above(within_CSW, rest_CS1)[..., 0]
    return numbers_CS * groups_CGW.shape[2] + places_CS


def _first_above(rising: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Where the last dimension of `rising` first exceeds `wanted`; never at an entry that adds nothing, unless all are 0."""
    last = rising[..., -1:]
    below = wanted.minimum(last.nextafter(torch.zeros_like(last)))
    return torch.searchsorted(rising, below, right=True).clamp_(max=rising.shape[-1] - 1)


def _groups(p_CV: torch.Tensor) -> torch.Tensor:
    """The entries in groups (C, G, W), filled up with zeros."""
    missing = -p_CV.shape[1] % _GROUP
    filled_CV = torch.nn.functional.pad(p_CV, (0, missing)) if missing else p_CV
    return filled_CV.view(len(p_CV), -1, _GROUP)


def _take(groups_CGW: torch.Tensor, numbers_CK: torch.Tensor) -> torch.Tensor:
    """Some groups of each row, (C, K, W)."""
    rows = groups_CGW.flatten(0, 1).index_select(0, flat(numbers_CK, groups_CGW.shape[1]))
    return rows.unflatten(0, numbers_CK.shape)


def softened_tail(tail_N2: torch.Tensor, least_N: torch.Tensor, tokens: int, power: float) -> torch.Tensor:
    """Estimate ln of the sum of p^power over the `tokens` tokens of the tail, of which ln of two such sums is known.

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


class TeacherLogprobs:
    """The folder that stage `cache_teacher` wrote: memory-mapped, block after block."""

    def __init__(self, folder: Path):
        if not (folder / INFO).exists():
            raise UserError(
                f"{folder} holds no teacher's predictions: give a result of the stage cache_teacher"
            )
        self.format = LogprobFormat.model_validate_json((folder / INFO).read_text())
        self._files = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
        self._starts = np.cumsum([0, *map(len, self._files)]).tolist()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> torch.Tensor:
        """Records of one block (T - 1, bytes), uint8."""
        file = bisect_right(self._starts, index) - 1
        return torch.from_numpy(self._files[file][index - self._starts[file]].copy())


class WithTeacherLogprobs:
    """Blocks, each with what the teacher predicts in it."""

    def __init__(self, blocks: Any, teacher_logprobs: TeacherLogprobs):
        if len(blocks) > len(teacher_logprobs):
            raise UserError(
                f"the teacher's predictions are of {len(teacher_logprobs)} blocks, but {len(blocks)} are to be learnt: "
                "make them again for this length of training"
            )
        self._blocks, self._teacher_logprobs = blocks, teacher_logprobs

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Mapping[str, torch.Tensor]:
        return {**self._blocks[index], RECORDS: self._teacher_logprobs[index]}
