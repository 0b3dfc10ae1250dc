"""Weights in GGUF's K-types: 256 numbers of a row share one scale in 16 bits, and parts of them finer scales in 6 or 8 bits.

Arithmetic and layout are those of llama.cpp (ggml-quants.c), as `gguf.quants.dequantize` reads them.
"""

from itertools import product
from typing import TYPE_CHECKING

from leanpipe.compression.q_blocks import FINE, best_affine, best_scale, bytes_of, inverse

if TYPE_CHECKING:
    import torch

_STEPS = (0, -1, 1)
"""A part's scale is rounded, so what is best for it may be one more or one less."""


def quantize_q4_k(x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """Pack blocks [n, 256], of which each number's error counts as in `weight`, into bytes [n, 144]."""
    import torch

    head, codes = _two_levels(x, weight, 15)
    return torch.cat([head, _pairs(codes)], -1)


def quantize_q5_k(x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """Pack blocks [n, 256] into bytes [n, 176]: as Q4_K, and the fifth bits together."""
    import torch

    head, codes = _two_levels(x, weight, 31)
    parts = torch.arange(8, dtype=torch.int32)[:, None]
    fifth = ((codes >> 4).int() << parts).sum(1).byte()
    return torch.cat([head, fifth, _pairs(codes & 15)], -1)


def quantize_q6_k(x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """Pack blocks [n, 256] into bytes [n, 210]: 16 scales in 8 bits, and six bits for each number."""
    import torch

    x, weight = x.view(-1, 16, 16), weight.view(-1, 16, 16)
    scales = best_scale(x, weight, lambda one: one.round().clamp_(-32, 31), -32.0, FINE)[..., 0]
    largest = scales.gather(-1, scales.abs().argmax(-1, keepdim=True))
    whole = (largest / -128).half()
    fine = (scales * inverse(whole.float())).round().clamp(-128, 127)
    error, codes, best = torch.full_like(x[..., :1], torch.inf), torch.zeros_like(x), fine
    for some in [(fine + step).clamp(-128, 127) for step in _STEPS]:
        exact = (whole.float() * some)[..., None]
        rounded = (x * inverse(exact)).round().clamp(-32, 31)
        ours = (weight * (exact * rounded - x).square()).sum(-1, keepdim=True)
        better = ours < error
        error, codes = torch.where(better, ours, error), torch.where(better, rounded, codes)
        best = torch.where(better[..., 0], some, best)
    fine = best
    codes = (codes + 32).byte().view(-1, 2, 4, 32)
    low, high = codes & 15, (codes >> 4).int() << torch.tensor([0, 2, 4, 6], dtype=torch.int32)[:, None]
    # Of each half of a block, the first and the third quarter share bytes, and the second and the fourth.
    nibbles = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(-1, 128)
    bits = high.sum(2).byte().reshape(-1, 64)
    return torch.cat([nibbles, bits, fine.to(torch.int8).view(torch.uint8), bytes_of(whole)], -1)


def _two_levels(
    x: "torch.Tensor", weight: "torch.Tensor", most: int
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return the scales' bytes [n, 16] and the numbers [n, 8, 32] of blocks of eight parts with a scale and a least value."""
    import torch

    x, weight = x.view(-1, 8, 32), weight.view(-1, 8, 32)
    scale, least = best_affine(x, weight, most, not_above_zero=True)
    d, scales = _six_bits(scale[..., 0])
    d_least, leasts = _six_bits(-least[..., 0])
    error, codes, best = torch.full_like(scale, torch.inf), torch.zeros_like(x), (scales, leasts)
    for one, other in product(_STEPS, _STEPS):
        some, others = (scales + one).clamp(0, 63), (leasts + other).clamp(0, 63)
        exact, start = (d.float() * some)[..., None], (d_least.float() * others)[..., None]
        rounded = ((x + start) * inverse(exact)).round().clamp(0, most)
        ours = (weight * (exact * rounded - start - x).square()).sum(-1, keepdim=True)
        better = ours < error
        error, codes = torch.where(better, ours, error), torch.where(better, rounded, codes)
        pairs = zip((some, others), best, strict=True)
        best = tuple(torch.where(better[..., 0], new, old) for new, old in pairs)
    codes, (scales, leasts) = codes.byte(), best
    packed = _packed_scales(scales.byte(), leasts.byte())
    return torch.cat([bytes_of(d), bytes_of(d_least), packed], -1), codes


def _six_bits(values: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Numbers [n, 8], not below zero, as a scale in float16 and whole numbers from 0 to 63."""
    d = (values.amax(-1, keepdim=True) / 63).half()
    return d, (values * inverse(d.float())).round().clamp(0, 63)


def _packed_scales(scales: "torch.Tensor", leasts: "torch.Tensor") -> "torch.Tensor":
    """Eight scales and eight least values of 6 bits each in 12 bytes."""
    import torch

    low = scales[:, :4] | scales[:, 4:] >> 4 << 6
    middle = leasts[:, :4] | leasts[:, 4:] >> 4 << 6
    return torch.cat([low, middle, scales[:, 4:] & 15 | (leasts[:, 4:] & 15) << 4], -1)


def _pairs(codes: "torch.Tensor") -> "torch.Tensor":
    """Parts [n, 8, 32] in the low and the high bits of bytes [n, 128], two by two."""
    return (codes[:, ::2] | codes[:, 1::2] << 4).reshape(-1, 128)
