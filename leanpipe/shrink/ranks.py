"""Which rank each product of a model has, so that all of them together meet a budget: counted before, chosen by what is lost."""

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from leanpipe.core.errors import UserError
from leanpipe.models.student import layer_list_name

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

STEP = 8
"""What ranks are multiples of: matrix units work in eights."""


class Product(NamedTuple):
    """A matrix of a layer that may become two factors."""

    name: str
    outputs: int
    inputs: int
    layer: int = 0
    readers: int = 1
    """How many heads read each of its outputs: keys and values of grouped queries are read by several."""

    @property
    def dense(self) -> int:
        """Weights of the whole matrix."""
        return self.outputs * self.inputs

    @property
    def of_a_rank(self) -> int:
        """Weights of two factors for each of their ranks."""
        return self.outputs + self.inputs

    @property
    def most(self) -> int:
        """The largest rank, a multiple of 8, at which two factors have fewer weights than the matrix; 0 if none has."""
        return (self.dense - 1) // self.of_a_rank // STEP * STEP


def products_of(model: "PreTrainedModel") -> list[Product]:
    """List the products of a model's layers that can become factors. The model may be empty."""
    import torch

    from leanpipe.models.factored import FAMILIES

    kind = model.config.model_type
    if kind not in FAMILIES:
        raise UserError(
            f"the products of a {kind} model cannot be replaced by factors of low rank, only those of {', '.join(FAMILIES)} "
            "can: leave out low_rank.size, low_rank.parameters and low_rank.megabytes"
        )
    inside = f"{layer_list_name(model)}."
    heads = model.config.num_attention_heads // (model.config.num_key_value_heads or 1)
    found = [
        Product(
            name,
            module.out_features,
            module.in_features,
            int(name.removeprefix(inside).partition(".")[0]),
            heads if name.endswith(("k_proj", "v_proj")) else 1,
        )
        for name, module in model.named_modules()
        if name.startswith(inside) and isinstance(module, torch.nn.Linear)
    ]
    return [one for one in found if one.most]


def check_budget(products: Sequence[Product], whole: int, most: int, config: "PretrainedConfig") -> None:
    """Raise UserError for a budget that leaves nothing to do, or that even the smallest factors exceed."""
    saved = sum(one.dense - STEP * one.of_a_rank for one in products)
    if most >= whole:
        raise UserError(
            f"low_rank asks for at most {most:,} parameters, and the model has {whole:,}: factors would be larger than the "
            "matrices that they replace, so set a smaller size, or low_rank.size=1 to leave low rank out"
        )
    if whole - saved > most:
        least = whole - saved
        raise UserError(
            f"no ranks bring this {config.model_type} model to {most:,} parameters: with rank {STEP} everywhere it has {least:,}, "
            f"so set low_rank.size={math.ceil(1000 * least / whole) / 1000:g} or low_rank.parameters={least} at least, or "
            "cut layers and vocabulary first (shrink.size, cut_vocabulary)"
        )


def even_ranks(products: Sequence[Product], weights: int) -> dict[str, int]:
    """Return ranks at which all products have about the same share of their weights, together at most `weights`."""
    share = weights / sum(one.dense for one in products)
    return {one.name: max(STEP, int(share * one.dense / one.of_a_rank) // STEP * STEP) for one in products}


def choose_ranks(
    products: Sequence[Product],
    squares: Mapping[str, Sequence[float]],
    influence_L: Sequence[float],
    weights: int,
) -> dict[str, int]:
    """Return the ranks of those products that become factors; all together have at most `weights` weights.

    `squares` are the mean squares of each product's outputs along its directions. Every product begins with rank 8; then what
    gains the largest share of its own output for each weight is given 8 more, as long as there is room. The share counts by
    how much its layer changes what goes through it (`influence_L`), and by the heads that read it. A product whose factors
    would have as many weights as its matrix stays whole.
    """
    ranks = dict.fromkeys((one.name for one in products), STEP)
    left = weights - sum(STEP * one.of_a_rank for one in products)
    by_name = {one.name: one for one in products}
    matters = {one.name: one.readers * influence_L[one.layer] for one in products}
    waiting = [_next(one, squares[one.name], matters[one.name], STEP) for one in products]
    heapq.heapify(waiting)
    while waiting:
        _, name, cost, rank = heapq.heappop(waiting)
        if cost > left:
            continue
        left -= cost
        if rank:
            ranks[name] = rank
            heapq.heappush(waiting, _next(by_name[name], squares[name], matters[name], rank))
        else:
            del ranks[name]
    return ranks


def _next(one: Product, squares: Sequence[float], matters: float, rank: int) -> tuple[float, str, int, int]:
    """What 8 ranks more would gain for each weight (negative: the heap gives the smallest first), their cost, and the rank then: 0
    for the whole matrix."""
    more = rank + STEP if rank + STEP <= one.most else 0
    cost = (STEP * one.of_a_rank) if more else one.dense - rank * one.of_a_rank
    total = sum(squares) or 1.0
    gained = matters * sum(squares[rank : more or None]) / total
    return -gained / cost, one.name, cost, more
