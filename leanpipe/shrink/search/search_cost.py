"""What a search over shapes takes, in products with weights, and how many distillations that is: counted before any work.

A token that a model of P parameters reads costs 2 P operations, one that it learns from 6 P.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.models.count import parameters_of
from leanpipe.shrink.search.candidates import DECODED, Candidate
from leanpipe.training.distill.distill import DistillConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from leanpipe.shrink.search.search_shapes import SearchConfig


def search_work(
    config: "SearchConfig", teacher: "PretrainedConfig", candidates: Sequence[Candidate]
) -> float:
    """Count the operations of a search, at most: the teacher's, those of scoring every shape, and of the finalists' learning."""
    sizes = sorted((one.parameters for one in candidates), reverse=True)
    depths = len({one.shape.layers for one in candidates})
    asked = 2 * parameters_of(teacher) * (config.tokens + 2 * config.calibration_tokens)
    scored = 2 * (config.calibration_tokens + DECODED) * sum(sizes)
    learned = learning_work(config.recovery, 1) * sum(sizes[: min(config.finalists, depths)])
    return asked + scored + learned


def distillation_work(teacher: "PretrainedConfig", candidates: Sequence[Candidate]) -> float:
    """Count the operations of one distillation of the default length of a student of this size, its teacher's among them."""
    default = DistillConfig()
    size = max(one.parameters for one in candidates)
    return 2 * parameters_of(teacher) * default.tokens + learning_work(default, size)


def learning_work(config: DistillConfig, parameters: int) -> float:
    """Count the operations of a training from cached predictions, with what is read to validate it, and once more as saved."""
    validated = (config.validations + 1) * config.validation_tokens
    return (6.0 * config.tokens + 2 * validated) * parameters


def check_cost(config: "SearchConfig", teacher: "PretrainedConfig", candidates: Sequence[Candidate]) -> float:
    """Return how many default distillations a search takes. Raises UserError if that is more than `max_cost`."""
    one = distillation_work(teacher, candidates)
    cost = search_work(config, teacher, candidates) / one
    if cost > config.max_cost:
        raise UserError(
            f"this search takes {cost:.1f} times what one distillation of the default length ({DistillConfig().tokens:,} tokens) "
            f"does, and search_shapes.max_cost allows {config.max_cost:g}: lower search_shapes.finalists, tokens or depths, or "
            f"set search_shapes.max_cost={cost + 0.05:.1f}"
        )
    return cost
