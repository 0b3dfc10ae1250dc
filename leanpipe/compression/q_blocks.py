"""Weights in GGUF's blocks of 32: a scale for each block, and a number of 4, 5 or 8 bits for each weight.

Several scales are tried for a block, its weights rounded by each, the best scale for these numbers solved by least squares,
and the one kept whose error is least, where each weight's error counts as `weight` says. That is llama.cpp's arithmetic
(ggml-quants.c) with other scales to try: it tries none of the other sign, and hardly any that cut the largest weight, which
costs it up to a fifth of the squared error (`python -m benchmarks.compression_budget types`). The numbers are packed as
`gguf.quants.dequantize` and llama.cpp's kernels read them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 32
_BFLOAT16 = 2**-8
"""As a share of a weight, more than rounding it to bfloat16 changes it."""
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the 16 numbers of IQ4 stand for: near zero, where most weights are, they lie closer together."""
FINE = (0.93, 0.97, 1.01, 1.06, 1.12, 1.2, 1.3, 1.45)
COARSE = tuple(0.85 + 0.1 * step for step in range(8))
"""Scales that are tried, as shares of the one that fits the largest weight, for types of many values and of few: larger ones
let that weight be cut."""
_REACHES = tuple(
    (shorter, end) for shorter in (1.03, 0.97, 0.9, 0.82, 0.74, 0.66, 0.58) for end in (0.0, 0.5, 1.0)
)
"""Parts of a block's reach that are tried, and where they lie in it."""

Round = Callable[["torch.Tensor"], "torch.Tensor"]
"""Give the nearest value that a type can hold, of weights divided by their scale."""


def quantize_q4_0(x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """Pack blocks [n, 32], of which each number's error counts as in `weight`, into bytes [n, 18]."""
    d, values = _kept_on_grid(x, *scale_and_round(x, weight, _whole(-8, 7), -8.0, COARSE))
    return _packed(d, _nibbles((values + 8).byte()))


def _kept_on_grid(
    x: "torch.Tensor", d: "torch.Tensor", values: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Keep blocks where they are that lie on Q4_0's grid but for bfloat16's rounding: a training put them there."""
    import torch

    plain = (x.gather(-1, x.abs().argmax(-1, keepdim=True)) / -8).half()
    numbers = _whole(-8, 7)(x * inverse(plain.float()))
    there = ((x - numbers * plain.float()).abs() <= x.abs() * _BFLOAT16).all(-1, keepdim=True)
    return torch.where(there, plain, d), torch.where(there, numbers, values)


def quantize_q5_0(x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """Pack blocks [n, 32] into bytes [n, 22]: as Q4_0, and the fifth bits together."""
    d, values = scale_and_round(x, weight, _whole(-16, 15), -16.0, FINE)
    codes = (values + 16).byte()
    return _packed(d, _fifth_bits(codes), _nibbles(codes & 15))


def quantize_q8_0(x: "torch.Tensor", _weight: "torch.Tensor") -> "torch.Tensor":
    """Pack blocks [n, 32] into bytes [n, 34]; 8 bits are so fine that no scale is better than the largest weight's."""
    import torch

    scale = x.abs().amax(-1, keepdim=True) / 127
    values = x * inverse(scale)
    rounded = (values.abs() + 0.5).floor() * values.sign()
    return _packed(scale.half(), rounded.to(torch.int8).view(torch.uint8))


def quantize_q4_1(x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """Pack blocks [n, 32] into bytes [n, 20]: a scale and a least value, and four bits."""
    import torch

    d, least, codes = affine(x, weight, 15)
    return torch.cat([bytes_of(d), _packed(least, _nibbles(codes))], -1)


def quantize_q5_1(x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """Pack blocks [n, 32] into bytes [n, 24]: a scale and a least value, and five bits."""
    import torch

    d, least, codes = affine(x, weight, 31)
    return torch.cat([bytes_of(d), _packed(least, _fifth_bits(codes), _nibbles(codes & 15))], -1)


def quantize_iq4_nl(x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """Pack blocks [n, 32] into bytes [n, 18]: four bits that stand for IQ4's values."""
    d, values = scale_and_round(x, weight, iq4_rounded, float(IQ4_VALUES[0]), COARSE)
    return _packed(d, _nibbles(iq4_codes(values)))


def scale_and_round(
    x: "torch.Tensor", weight: "torch.Tensor", rounded: Round, extreme: float, factors: Sequence[float]
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return the best scale of each block [n, 1] in float16, and its values [n, size] as `rounded` gives them."""
    scale = best_scale(x, weight, rounded, extreme, factors).half()
    return scale, rounded(x * inverse(scale.float()))


def best_scale(
    x: "torch.Tensor", weight: "torch.Tensor", rounded: Round, extreme: float, factors: Sequence[float]
) -> "torch.Tensor":
    """Return the scale of each block [..., 1] that makes the weighted squared error least.

    Those are tried that are `factors` of the one by which the largest weight becomes `extreme`, or its opposite; then once
    more the best.
    """
    import torch

    largest = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    begin = extreme * inverse(largest)
    weighted = weight * x
    best, scale = torch.zeros_like(largest), largest / extreme
    for factor in (*factors, *(-one for one in factors), None):
        values = rounded(x * (inverse(scale) if factor is None else begin * factor))
        product = (weighted * values).sum(-1, keepdim=True)
        square = (weight * values * values).sum(-1, keepdim=True).clamp_min(1e-30)
        gain = product * product / square
        better = gain > best
        best = torch.where(better, gain, best)
        scale = torch.where(better, product / square, scale)
    return scale


def affine(
    x: "torch.Tensor", weight: "torch.Tensor", most: int
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Return scale and least value of each block [n, 1] in float16, and its numbers [n, size] from 0 to `most`."""
    scale, least = best_affine(x, weight, most)
    scale, least = scale.half(), least.half()
    codes = ((x - least.float()) * inverse(scale.float())).round().clamp(0, most)
    return scale, least, codes.byte()


def best_affine(
    x: "torch.Tensor", weight: "torch.Tensor", most: int, not_above_zero: bool = False
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return the scale and the least value [..., 1] of each block that make the weighted squared error least.

    Its whole reach is tried, and shorter ones from its lower end, its middle and its upper end, then once more the best.
    """
    import torch

    lowest = x.amin(-1, keepdim=True)
    lowest = lowest.clamp_max(0.0) if not_above_zero else lowest
    reach = (x.amax(-1, keepdim=True) - lowest).clamp_min(1e-20)
    total, product = weight.sum(-1, keepdim=True), (weight * x).sum(-1, keepdim=True)
    best, scale, least = torch.full_like(reach, torch.inf), reach / most, lowest
    for shorter, end in (*_REACHES, (None, 0.0)):
        begin = least if shorter is None else lowest + (1 - shorter) * end * reach
        step = scale if shorter is None else reach * shorter / most
        codes = ((x - begin) / step).round().clamp(0, most)
        weighted = weight * codes
        once, twice = weighted.sum(-1, keepdim=True), (weighted * codes).sum(-1, keepdim=True)
        both = (weighted * x).sum(-1, keepdim=True)
        spread = (total * twice - once * once).clamp_min(1e-30)
        slope, offset = (total * both - product * once) / spread, (twice * product - once * both) / spread
        if not_above_zero:
            slope = torch.where(offset > 0, both / twice.clamp_min(1e-30), slope)
            offset = offset.clamp_max(0.0)
        # The squared error, less that of zeros.
        error = slope * slope * twice + offset * offset * total + 2 * slope * offset * once
        error = error - 2 * (slope * both + offset * product)
        better = (error < best) & (slope > 0)
        best = torch.where(better, error, best)
        scale, least = torch.where(better, slope, scale), torch.where(better, offset, least)
    return scale, least


def inverse(scale: "torch.Tensor") -> "torch.Tensor":
    """One over each scale; 0 for that of zeros."""
    import torch

    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)


def iq4_rounded(x: "torch.Tensor") -> "torch.Tensor":
    """Give the nearest of IQ4's values."""
    return _iq4_table()[(x.round().clamp_(-128, 127) + 128).int()]


def iq4_codes(values: "torch.Tensor") -> "torch.Tensor":
    """Give the numbers 0 to 15 that stand for IQ4's values."""
    import torch

    return torch.bucketize(values, torch.tensor(IQ4_VALUES[:-1], dtype=torch.float32) + 0.5).byte()


@functools.cache
def _iq4_table() -> "torch.Tensor":
    """The nearest of IQ4's values to each whole number from -128 to 127."""
    import torch

    values = torch.tensor(IQ4_VALUES, dtype=torch.float32)
    whole = torch.arange(-128, 128, dtype=torch.float32)
    return values[(whole[:, None] - values).abs().argmin(-1)]


def bytes_of(scale: "torch.Tensor") -> "torch.Tensor":
    """The bytes [n, 2] of float16 numbers [n, 1]."""
    import torch

    return scale.contiguous().view(torch.uint8)


def _whole(lowest: int, highest: int) -> Round:
    return lambda x: x.round().clamp_(lowest, highest)


def _packed(scale: "torch.Tensor", *parts: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.cat([bytes_of(scale), *parts], -1)


def _nibbles(codes: "torch.Tensor") -> "torch.Tensor":
    """Two halves of a block [n, 32] in the low and the high bits of bytes [n, 16]."""
    low, high = codes.chunk(2, -1)
    return low | high << 4


def _fifth_bits(codes: "torch.Tensor") -> "torch.Tensor":
    """The fifth bits of [n, 32] in four bytes."""
    import torch

    bits = (codes >> 4).view(-1, 4, 8).int() << torch.arange(8, dtype=torch.int32)
    return bits.sum(-1).byte()
