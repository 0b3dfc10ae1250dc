"""How many blocks are in memory at once: from what fits by estimate, down to what really does."""

import resource
from typing import Any

import psutil

from leanpipe.core import device

_BYTES_PER_STATE = {"cpu": 68, "cuda": 60, "liger": 40}
"""Bytes of activations for each token and each unit of a layer's width, without the attention's scores: on a processor twice
what 16 bits take (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", arXiv 2205.05198,
table 2); on a GPU under autocast, without and with Liger's kernels, as measured on an H100 (59 and 37)."""
_ENOUGH_TOKENS = {"cpu": 2_048, "cuda": 65_536}
"""More tokens at once make a step no faster."""
_SHARE = 0.75
"""Of free memory that activations may fill: gradients, logits and optimiser come, too."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "could not create a memory")


def first_guess(model: Any, batch: int, length: int, checkpointing: bool) -> int:
    """Blocks of `length` tokens to begin with: a divisor of `batch` that should fit and keeps the device busy."""
    each = activation_bytes(model.config, length, checkpointing)
    fitting = min(int(_SHARE * free_memory()) // each, _ENOUGH_TOKENS[device.name()] // length)
    return next(size for size in range(batch, 0, -1) if batch % size == 0 and (size <= fitting or size == 1))


def smaller(size: int, batch: int) -> int | None:
    """The largest divisor of `batch` that is at most half of `size`; None below 1."""
    return next((half for half in range(size // 2, 0, -1) if batch % half == 0), None)


def activation_bytes(config: Any, length: int, checkpointing: bool) -> int:
    """About what one block's activations take in a training step."""
    kernels = "liger" if device.has_liger() else device.name()
    per_layer = _BYTES_PER_STATE[kernels] * length * config.hidden_size
    if checkpointing:  # the inputs of all layers, and everything of one
        return per_layer + 4 * length * config.hidden_size * config.num_hidden_layers
    return per_layer * config.num_hidden_layers


def free_memory() -> int:
    """Bytes that this process may still take of the device's memory."""
    if device.name() == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    free = psutil.virtual_memory().available
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - psutil.Process().memory_info().vms)
    return max(free, 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that an allocation failed, on a GPU or in main memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
