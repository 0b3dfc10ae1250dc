"""Derive learning rate and batch of a distillation where they are left at 0: from its tokens and the student's size.

Two points were measured, the best of sweeps (docs/training.md), for 80 million parameters and batches of 256 tokens: 3.5e-4 for
40,960 tokens where every weight learns, and 5e-4 for 57,344 where what was not cut of the teacher does not. The rest follows by
what others found of how the best rate moves:

- the batch grows with tokens^0.383 (Bergsma et al. 2025, "Power Lines", arXiv 2505.13738), as when training from nothing;
- the rate grows with the root of the batch (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient
  Algorithms", arXiv 2205.10287);
- at one batch it falls with tokens^-0.32 and with parameters^-0.23 (Bjorck et al. 2024, "Scaling Optimal LR Across Token
  Horizons", arXiv 2409.19913, the fit of both together). Others found no fall at one batch (Li et al. 2025, "Step Law", arXiv
  2503.04715): the lower of both is taken, for a rate that is too high undoes what the teacher's weights know. So the rate of
  shorter runs is not raised either: after 10,240 tokens 3.5e-4 gave 1.564 bits per byte of test text, 5.5e-4 1.574 (one seed, 26
  November 2026, `python -m benchmarks.student curve 10_240 --set distill.learning_rate=5.5e-4`).

New weights have nothing to lose. They take what Step Law found for training from nothing, 1.79 parameters^-0.713 tokens^0.307 in
batches of 0.58 tokens^0.571, wherever that is higher: in long runs.

No rate was measured of longer trainings, nor of new weights.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leanpipe.training.distill.distill import DistillConfig

TOKENS, BATCH, PARAMETERS, RATE = 40_960, 256, 80e6, 3.5e-4
"""The point that was measured: tokens of the training and of a batch, parameters, and the best of the rates."""
FROZEN_TOKENS, FROZEN_RATE = 57_344, 5e-4
"""The same where embeddings, norms and the first layer stay the teacher's."""
_SHORT = 0.285
"""The power of tokens with which a shorter training of those has a lower rate: its fewer steps warm up too quickly for 5e-4. After
16,384 tokens 3.5e-4 gave 1.591 bits per byte of validation text, 5e-4 1.601, and 1.589 where 30 % of the steps warmed up."""
_BATCH_BY_TOKENS, _RATE_BY_BATCH, _RATE_BY_TOKENS, _RATE_BY_PARAMETERS = 0.383, 0.5, -0.32, -0.23


def derive_recipe(
    config: "DistillConfig", parameters: int, block: int, *, fresh: bool = False, frozen: bool = False
) -> "DistillConfig":
    """Fill in a learning rate and a batch where `config` has 0, for a student of so many parameters and blocks of `block` tokens.

    `fresh` is a student with new weights, `frozen` one of which not all learn.
    """
    batch = config.batch or _whole_batch(config, block)
    measured = (FROZEN_TOKENS, FROZEN_RATE, _SHORT) if frozen else (TOKENS, RATE, 0.0)
    rate = config.learning_rate or _rate(*measured, config.tokens, batch * block, parameters)
    if fresh and not config.learning_rate:
        rate = max(rate, _rate_of_new_weights(config.tokens, batch * block, parameters))
    # More than two digits would be a promise, and the size of a student moves a little with its vocabulary.
    return config.model_copy(update={"batch": batch, "learning_rate": min(1.0, float(f"{rate:.1e}"))})


def _rate(point: int, best: float, shorter: float, tokens: int, batch: int, parameters: int) -> float:
    """Move the `best` rate of `point` tokens to other numbers."""
    return (
        best
        * min(1.0, tokens / point) ** shorter
        * (batch / BATCH) ** _RATE_BY_BATCH
        * max(1.0, tokens / point) ** _RATE_BY_TOKENS
        * (parameters / PARAMETERS) ** _RATE_BY_PARAMETERS
    )


def _rate_of_new_weights(tokens: int, batch: int, parameters: int) -> float:
    """Step Law's; it counts no embeddings, but with them the rate is the lower one."""
    batch_of_the_law = 0.58 * tokens**0.571
    return 1.79 * parameters**-0.713 * tokens**0.307 * (batch / batch_of_the_law) ** _RATE_BY_BATCH


def _whole_batch(config: "DistillConfig", block: int) -> int:
    """The nearest power of two for each process, and a multiple of what is in memory at once."""
    ideal = BATCH * (config.tokens / TOKENS) ** _BATCH_BY_TOKENS / block / config.processes
    share = 2 ** max(0, round(math.log2(ideal)))
    at_once = min(config.micro_batch or 1, share)
    return config.processes * math.ceil(share / at_once) * at_once
