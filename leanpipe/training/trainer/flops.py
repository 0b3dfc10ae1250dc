"""How much arithmetic a token of training needs, and how much the device does at best: their ratio is the MFU.

MFU: model FLOPs utilisation (Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B).
"""

import functools
import time
from typing import TYPE_CHECKING, Any

from leanpipe.core import device

if TYPE_CHECKING:
    import torch

_SECONDS = 0.1
_SIZE = {"cpu": 1_024, "cuda": 8_192}


def flops_per_token(model: Any, length: int) -> float:
    """Floating-point operations that training needs for each token of blocks of `length`: those of matrix products only.

    A weight costs 2 forward, 2 for its input's gradient, and 2 for its own if it is trained. Attention over the half of
    the scores that is not masked costs 2 x length x width forward in each layer, and twice that backward. Work that is done
    twice to save memory does not count.
    """
    weights = sum(_weight_flops(module) for module in model.modules())
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return weights + 6 * length * width * config.num_attention_heads * config.num_hidden_layers


def _weight_flops(module: Any) -> float:
    import torch
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, torch.nn.Linear | Conv1D):
        return 0
    # Weights of 4 bits are stored packed, so their number is that of inputs times outputs.
    linear = isinstance(module, torch.nn.Linear)
    count = module.in_features * module.out_features if linear else module.weight.numel()
    return count * (6 if module.weight.requires_grad else 4)


@functools.cache
def peak_flops(dtype: "torch.dtype") -> float:
    """Floating-point operations per second of a large matrix product in `dtype` on this device, measured once per process.

    Takes a fifth of a second. The best of several, because other work on the machine only ever slows it down.
    """
    import torch

    size, where = _SIZE[device.name()], device.name()
    generator = torch.Generator(where).manual_seed(0)
    # Of random numbers: a GPU multiplies zeros faster than anything it will be given.
    a, b = (torch.randn(size, size, generator=generator, device=where).to(dtype) for _ in range(2))
    _seconds(a, b)
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        best = min(best, _seconds(a, b))
    return 2 * size**3 / best


def _seconds(a: "torch.Tensor", b: "torch.Tensor") -> float:
    import torch

    if device.name() == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    torch.mm(a, b)
    if device.name() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
