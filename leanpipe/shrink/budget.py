"""How large a student may be, and which shapes meet that: counted from configs, nothing is loaded."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

from pydantic import Field, model_validator

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.models.count import parameters_with_layers, whole_parameters
from leanpipe.shrink.narrow import Widths, narrow_config, shared_widths, widths_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

STEPS = (256, 128, 64)
"""What numbers of channels are multiples of, the best first: rows of 256 are what K-quants of GGUF want, 128 Marlin on
CUDA, 64 the blocks of bitsandbytes."""
_UNUSED = 0.03
"""The share of a budget that may be left unused for a better multiple."""
_UNUSED_BY_LAYERS = 0.01
"""The share that whole layers may leave unused; where it is more, one layer more with fewer channels is the better use."""


class BudgetConfig(StageConfig):
    """How large the student may be."""

    size: float = Field(0.6, gt=0, le=1)
    """Size of the student as a share of the teacher's parameters: the most that it may have, embeddings included."""
    parameters: int = Field(0, ge=0, le=10**13)
    """The most parameters that the student may have, in place of a share; 0 for `size`."""
    megabytes: float = Field(0, ge=0, le=10**8)
    """The most megabytes that the student's file may have in 16 bits, in place of a share; 0 for `size`."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.parameters and self.megabytes:
            raise ValueError(
                f"parameters={self.parameters} and megabytes={self.megabytes:g} are two budgets: set one of them to 0"
            )
        return self

    def most_parameters(self, teacher: "PretrainedConfig") -> int:
        """Return how many parameters the student may have. A teacher whose vocabulary was cut counts as it was before."""
        if self.parameters:
            return self.parameters
        return int(self.megabytes * 1e6 / 2) or int(self.size * whole_parameters(teacher))

    @property
    def is_whole(self) -> bool:
        """Whether the student may be as large as its teacher."""
        return not self.parameters and not self.megabytes and self.size == 1


class Shape(NamedTuple):
    """How deep and how wide a student is."""

    layers: int
    widths: Widths

    def parameters(self, teacher: "PretrainedConfig") -> int:
        """Count the parameters of a model of this shape, built as `teacher` describes; its layers are taken to be alike."""
        narrow = narrow_config(teacher, self.widths)
        one = parameters_with_layers(narrow, 1)
        return one + (self.layers - 1) * (parameters_with_layers(narrow, 2) - one) if self.layers > 1 else one

    def __str__(self) -> str:
        heads = f", {self.widths.kv_groups} groups of heads" if self.widths.kv_groups else ""
        return f"{self.layers} layers of {self.widths.mlp_channels:,} channels{heads}, width {self.widths.hidden_size:,}"


class AskedShape(NamedTuple):
    """What of a shape is given: 0 where the budget or the teacher decides."""

    width: float = 1.0
    layers: int = 0
    mlp_channels: int = 0
    kv_groups: int = 0
    hidden_size: int = 0

    def widths(self, teacher: "PretrainedConfig") -> Widths:
        """Return the widths of a student whose channels the budget does not decide."""
        shared = shared_widths(teacher, self.width)
        return Widths(
            self.hidden_size or shared.hidden_size,
            self.mlp_channels or shared.mlp_channels,
            self.kv_groups or shared.kv_groups,
        )


def whole_shape(teacher: "PretrainedConfig") -> Shape:
    """Return the shape of the teacher itself."""
    return Shape(teacher.num_hidden_layers, widths_of(teacher))


def choose_shape(teacher: "PretrainedConfig", budget: BudgetConfig, asked: AskedShape) -> Shape:
    """Choose the shape that uses the budget: as wide as is asked for, and as many layers as that leaves room for.

    If layers are given, the number of MLP channels follows; and so it does where whole layers leave some of the budget
    unused, for one layer more. Raises UserError, with the nearest shape, for a budget that is too small.
    """
    _check_asked(teacher, asked)
    full, most = asked.widths(teacher), budget.most_parameters(teacher)
    if budget.is_whole or (asked.layers and asked.mlp_channels):
        return Shape(asked.layers or teacher.num_hidden_layers, full)
    if asked.layers:
        found = _fill_channels(teacher, asked.layers, full, most)
        return found or _refuse(teacher, budget, Shape(asked.layers, full._replace(mlp_channels=STEPS[-1])))
    deep = _fill_layers(teacher, full, most)
    if deep and (
        deep.layers == teacher.num_hidden_layers or deep.parameters(teacher) >= (1 - _UNUSED_BY_LAYERS) * most
    ):
        return deep
    if asked.mlp_channels:
        return deep or _refuse(teacher, budget, Shape(1, full))
    wider = _fill_channels(teacher, deep.layers + 1 if deep else 1, full, most)
    return wider or deep or _refuse(teacher, budget, Shape(1, full._replace(mlp_channels=STEPS[-1])))


def _check_asked(teacher: "PretrainedConfig", asked: AskedShape) -> None:
    """Raise UserError for a part that the teacher has fewer of, or for sizes that do not go together."""
    whole = {"layers": teacher.num_hidden_layers} | widths_of(teacher)._asdict()
    for name, most in whole.items():
        if (wanted := getattr(asked, name)) > most:
            raise UserError(
                f"shrink.{name}={wanted} is more than the {most:,} that this teacher has: lower it"
            )
    if asked.hidden_size and widths_of(teacher).kv_groups:
        groups = asked.widths(teacher).kv_groups
        heads = groups * (teacher.num_attention_heads // widths_of(teacher).kv_groups)
        if asked.hidden_size % heads:
            nearest = max(1, round(asked.hidden_size / heads)) * heads
            raise UserError(
                f"shrink.hidden_size={asked.hidden_size} is no multiple of the {heads} heads of {groups} groups, which "
                f"transformers refuses: set it to {nearest}, or other shrink.kv_groups"
            )


def best_multiple(channels: int) -> int:
    """Return the largest of the multiples that quantisers like which `channels` is; 1 if it is none of them."""
    return next((step for step in STEPS if channels % step == 0), 1)


def _fill_layers(teacher: "PretrainedConfig", widths: Widths, most: int) -> Shape | None:
    """As many layers as there is room for; None if not even one has room."""
    one, two = (Shape(layers, widths).parameters(teacher) for layers in (1, 2))
    if one > most:
        return None
    return Shape(min(teacher.num_hidden_layers, 1 + (most - one) // (two - one)), widths)


def _fill_channels(teacher: "PretrainedConfig", layers: int, widths: Widths, most: int) -> Shape | None:
    """As many channels as there is room for, of the best multiple that wastes little; None if 64 have no room."""
    found = None
    for step in reversed(STEPS):
        limit = _most_channels(teacher, layers, widths, most, step)
        if limit is None:
            continue
        if found is None or limit.parameters(teacher) >= (1 - _UNUSED) * most:
            found = limit
    return found


def _most_channels(
    teacher: "PretrainedConfig", layers: int, widths: Widths, most: int, step: int
) -> Shape | None:
    if step > widths.mlp_channels:
        return None
    few, more = (
        Shape(layers, widths._replace(mlp_channels=channels)).parameters(teacher)
        for channels in (step, 2 * step)
    )
    if few > most:
        return None
    steps = min(1 + (most - few) // (more - few), widths.mlp_channels // step)
    return Shape(layers, widths._replace(mlp_channels=steps * step))


def _refuse(teacher: "PretrainedConfig", budget: BudgetConfig, nearest: Shape) -> Shape:
    most, least = budget.most_parameters(teacher), nearest.parameters(teacher)
    whole = whole_parameters(teacher)
    name, value = (
        ("parameters", f"{least}")
        if budget.parameters
        else ("megabytes", f"{math.ceil(2 * least / 1e5) / 10:g}")
        if budget.megabytes
        else ("size", f"{math.ceil(1000 * least / whole) / 1000:g}")
    )
    raise UserError(
        f"no shape of this teacher has at most {most:,} parameters ({most / whole:.1%} of it): the nearest, {nearest}, has "
        f"{least:,}; set shrink.{name}={value}, or less shrink.width"
    )


def uncut_parts(teacher: "PretrainedConfig", shape: Shape, kept: Sequence[int] = (0,)) -> list[str]:
    """Name what of the teacher is as it was in a model of its layers `kept`, for `freeze`: there is nothing to make up for."""
    whole = whole_shape(teacher)
    if shape.widths.hidden_size != whole.widths.hidden_size:
        return []
    first = shape.widths == whole.widths and kept[0] == 0 and 1 < shape.layers < whole.layers
    return ["embeddings", "norms", *(["first_layer"] if first else [])]


def odd_sizes(teacher: "PretrainedConfig", shape: Shape) -> Iterator[str]:
    """Say what the sizes of a shape will cost that are no multiples of what quantisers want."""
    config = narrow_config(teacher, shape.widths)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes = {
        "hidden size": shape.widths.hidden_size,
        "MLP channels": shape.widths.mlp_channels,
        "rows of heads": head * config.num_attention_heads,
    }
    costs = {
        64: "bitsandbytes' 4 bits have blocks across rows, and its 8 bits may refuse them",
        128: "Marlin's kernels on CUDA refuse them",
        256: "GGUF's K-quants store them as larger types",
    }
    for multiple, cost in costs.items():
        odd = [f"{name} {size}" for name, size in sizes.items() if size % multiple]
        if odd:
            yield f"{', '.join(odd)}: no multiple of {multiple}, so {cost}"
