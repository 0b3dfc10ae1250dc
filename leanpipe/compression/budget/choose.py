"""Choose the types of a file that keeps within the bounds of `quantize`, by what was measured of the model and the machine."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.compression.budget.kernel_speed import bytes_of_all, read_speeds, seconds_of
from leanpipe.compression.budget.sensitivity import Sensitivity
from leanpipe.compression.budget.solver import (
    MEGABYTE,
    Bounds,
    Choice,
    LossOfSum,
    best_choice,
    refusal,
    totals,
)
from leanpipe.compression.budget.weight_groups import WeightGroup, chosen_modules, weight_groups
from leanpipe.compression.gguf_export import GgufTypes, plan_gguf
from leanpipe.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.compression.gguf_export import Importance

log = logging.getLogger(__name__)

_ATTEMPTS = 5


@dataclass(frozen=True)
class Budget:
    """What a file may take; 0 where there is no bound."""

    max_mb: float = 0.0
    max_loss: float = 0.0
    """Nats per token."""
    min_tokens_per_second: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.max_mb or self.max_loss or self.min_tokens_per_second)


@dataclass(frozen=True)
class Chosen:
    """Types within a budget, and what they are expected to take."""

    types: GgufTypes
    parts: Mapping[str, str]
    """By part of the model, for people."""
    bytes: int
    loss: float
    """Nats per token."""
    tokens_per_second: float | None


def choose_types(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    budget: Budget,
    kept: frozenset[str],
    sensitivity: Sensitivity,
    speeds: Mapping[str, float] | None = None,
) -> Chosen:
    """Return the types that lose least within the budget, or the smallest if only loss and speed are bounded.

    The model may be empty (on the meta device). Raises UserError, which says what could be reached, if there are none.
    """
    groups = weight_groups(model, kept)
    base = GgufTypes("q8_0", "q8_0", kept)
    beside = plan_gguf(model, tokenizer, base).bytes - sum(group.bytes("q8_0") for group in groups)
    of_sum = LossOfSum(sensitivity.whole, sensitivity.engine)
    choices = _choices(groups, sensitivity, speeds)
    bounds = Bounds(
        budget.max_mb * MEGABYTE - beside if budget.max_mb else None,
        of_sum.inverse(budget.max_loss) if budget.max_loss else None,
        1 / budget.min_tokens_per_second if budget.min_tokens_per_second and speeds else None,
    )
    found = best_choice(choices, bounds)
    if found is None:
        raise refusal(choices, bounds, beside, of_sum)
    parts = {one.part: one.kind for one in found}
    types = replace(base, chosen=chosen_modules(groups, parts))
    _, loss, seconds = totals(found)
    stored = plan_gguf(model, tokenizer, types)
    return Chosen(types, parts, stored.bytes, of_sum(loss), 1 / seconds if speeds else None)


def choose_measured(
    model: "PreTrainedModel",
    budget: Budget,
    choose: Callable[[Budget], Chosen],
    texts: "Sequence[torch.Tensor]",
    importance: "Importance | None",
    engine: float = 0.0,
) -> tuple[Chosen, float]:
    """Choose types, and measure on texts what they lose; where that is above the bound, choose anew for less.

    Return what was chosen, and its loss, with what the engine adds. Raises UserError if nothing keeps to the bound.
    """
    from leanpipe.compression.budget.divergence import Divergence, rounded

    divergence, aim = Divergence(model, texts), budget.max_loss
    for _ in range(_ATTEMPTS):
        chosen = choose(replace(budget, max_loss=aim))
        with rounded(model, chosen.types.chosen, importance):
            loss = divergence.now() + engine
        if not budget.max_loss or loss <= budget.max_loss:
            return chosen, loss
        log.info("%.4g was expected to be lost, and %.4g was: types are chosen anew", chosen.loss, loss)
        aim *= 0.95 * budget.max_loss / loss
    raise UserError(
        f"no choice of types was found that loses no more than quantize.max_loss={budget.max_loss:.4g}: the last one lost "
        f"{loss:.4g}; allow more, or a larger file"
    )


def read_measured(sensitivity: Path, speeds: Path | None) -> tuple[Sensitivity, dict[str, float] | None]:
    """Read the results of the stages `sensitivity` and, if there is one, `kernel_speed`."""
    return Sensitivity.read(sensitivity), read_speeds(speeds) if speeds else None


def _choices(
    groups: list[WeightGroup], sensitivity: Sensitivity, speeds: Mapping[str, float] | None
) -> list[Choice]:
    measured = {part.name: part for part in sensitivity.parts}
    total = bytes_of_all(groups)
    return [
        Choice(
            group.name,
            kind,
            group.bytes(kind),
            measured[group.name].losses[kind],
            seconds_of(group, kind, speeds, total) if speeds else 0.0,
        )
        for group in groups
        for kind in group.types()
    ]
