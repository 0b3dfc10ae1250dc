"""Find how many blocks are in memory at once: from what fits by estimate, down to what really does."""

from typing import Any

import torch

from leanpipe.core import device
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.memory import activations, size_of

_ENOUGH_TOKENS = {"cpu": 2_048, "cuda": 65_536}
"""More tokens at once make a step no faster."""
_SHARE = 0.75
"""Of free memory that activations may fill: gradients, logits and optimiser come, too."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "could not create a memory")


def first_guess(model: Any, config: TrainingConfig, length: int) -> int:
    """Estimate with how many blocks of `length` tokens to begin.

    As many as are asked for, or a divisor of a process's share of a batch that should fit into the free memory and keeps the
    device busy.
    """
    if config.micro_batch:
        return config.in_memory
    alone = config.model_copy(update={"micro_batch": 1})
    each = activations(size_of(model.config), alone, length, device.name())
    fitting = min(int(_SHARE * device.free_memory()) // each, _ENOUGH_TOKENS[device.name()] // length)
    batch = config.share
    return next(size for size in range(batch, 0, -1) if batch % size == 0 and (size <= fitting or size == 1))


def smaller(size: int, batch: int) -> int | None:
    """Return the largest divisor of `batch` that is at most half of `size`; None below 1."""
    return next((half for half in range(size // 2, 0, -1) if batch % half == 0), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that an allocation failed, on a GPU or in main memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def random_state() -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what dropout draws from, on the processor and on the GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if device.name() == "cuda" else None


def set_random_state(state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    """Make dropout draw again what it drew after `random_state`."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
