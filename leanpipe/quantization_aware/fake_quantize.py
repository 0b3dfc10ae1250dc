"""Let a model compute by weights as Q4_0 stores them, while those that it is trained by stay whole.

Rounding has no slope: the gradient by a rounded weight is taken as that by the whole one, a straight-through estimator
(Bengio et al. 2013, https://arxiv.org/abs/1308.3432, section 4).

Letters in names of tensors: B blocks, W the 32 weights of each.
"""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from transformers.pytorch_utils import Conv1D

BLOCK = 32
"""Weights of a row that share a scale."""
_BLOCKS = {"cpu": 2**12, "cuda": 2**20}
"""How many blocks are worked on together: on a processor they should stay in its caches."""
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)


def fake_quantize(
    weight: torch.Tensor, shares_B1: torch.Tensor | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Round a weight [outputs, inputs], of inputs a multiple of 32, to what Q4_0 says of it, in `dtype` or its own.

    It is llama.cpp's arithmetic (`quantize_row_q4_0_ref` in ggml-quants.c): of each 32 weights the one of greatest size is
    -8 times their scale, here times a share of it, beyond which all are cut. And the scale is rounded to bfloat16 as well
    as to float16, so that -8 times it, which each block holds, is exact in bfloat16: whoever quantises what was rounded,
    even after it was saved in bfloat16, finds the same scale and the same numbers.
    """
    rounded = torch.empty_like(weight, dtype=dtype or weight.dtype, memory_format=torch.contiguous_format)
    whole, size = weight.detach().reshape(-1, BLOCK), _BLOCKS[weight.device.type]
    shares = itertools.repeat(1.0) if shares_B1 is None else shares_B1.split(size)
    for whole_BW, out_BW, share_B1 in zip(
        whole.split(size), rounded.view(-1, BLOCK).split(size), shares, strict=False
    ):
        _round(whole_BW.float(), share_B1, out_BW)
    return rounded


def _round(whole_BW: torch.Tensor, share_B1: torch.Tensor | float, out_BW: torch.Tensor) -> None:
    least_B1, most_B1 = whole_BW.aminmax(dim=-1, keepdim=True)
    scale_B1 = torch.where(most_B1 > -least_B1, most_B1, least_B1).div_(-8).mul_(share_B1)
    inverse_B1 = torch.where(scale_B1 == 0, 0, scale_B1.reciprocal())
    steps_BW = (whole_BW * inverse_B1).add_(8.5).floor_().clamp_(0, 15).sub_(8)
    out_BW.copy_(steps_BW.mul_(scale_B1.half().bfloat16().float()))


def best_shares(weight: torch.Tensor, counts: torch.Tensor | None = None) -> torch.Tensor:
    """Find for each block of 32 weights the share of its greatest one at which rounding costs the least, (B, 1).

    `counts` has the size of the weight, and says how much the error of each number counts; without it, all count the same.
    """
    parts, size = [], _BLOCKS[weight.device.type]
    all_BW = None if counts is None else counts.reshape(-1, BLOCK).split(size)
    for index, part_BW in enumerate(weight.detach().reshape(-1, BLOCK).split(size)):
        whole_BW, rounded_BW = part_BW.float(), torch.empty(part_BW.shape, device=part_BW.device)
        errors = []
        for share in _SHARES:
            _round(whole_BW, share, rounded_BW)
            squares_BW = rounded_BW.sub_(whole_BW).square_()
            errors.append((squares_BW if all_BW is None else squares_BW.mul_(all_BW[index])).sum(-1))
        parts.append(torch.stack(errors).argmin(0))
    return torch.tensor(_SHARES, device=weight.device)[torch.cat(parts)][:, None]


def rows_of(module: Any) -> torch.Tensor:
    """Return a view of a linear layer's weight as [outputs, inputs], which GPT-2 keeps the other way round."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


class _StraightThrough(torch.autograd.Function):
    """A rounded weight, through which the gradient goes as if it were whole."""

    @staticmethod
    def forward(ctx, weight, shares_B1, dtype):
        ctx.dtype = weight.dtype
        return fake_quantize(weight, shares_B1, dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        return upstream.to(ctx.dtype), None, None


class _Rounded:
    """The forward pass of a linear layer by its rounded weight."""

    def __init__(self, module: Any, shares_B1: torch.Tensor):
        self._module, self._shares = module, shares_B1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        kind, whole = x.device.type, rows_of(self._module)
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else whole.dtype
        return F.linear(x, _StraightThrough.apply(whole, self._shares, dtype), self._module.bias)


@contextmanager
def rounded_layers(model: torch.nn.Module, shares: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Make the linear layers that `shares` names compute by rounded weights, in a context."""
    modules = {name: model.get_submodule(name) for name in shares}
    for name, module in modules.items():
        module.forward = _Rounded(module, shares[name])  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in modules.values():
            del module.forward


def round_layers(model: torch.nn.Module, shares: Mapping[str, torch.Tensor]) -> None:
    """Put rounded weights in the place of those that were trained."""
    with torch.no_grad():
        for name, shares_B1 in shares.items():
            rows = rows_of(model.get_submodule(name))
            rows.copy_(fake_quantize(rows, shares_B1))
