"""A model of fewer layers and fewer entries: hidden states, MLP channels, heads (as Minitron's pruning of depth and width)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from leanpipe.models.count import with_layers
from leanpipe.models.offload import weight as weight_of
from leanpipe.models.student import kept_names, random_student
from leanpipe.shrink.cuttable import mlp_channels, set_mlp_channels
from leanpipe.shrink.importance import Importance, norms
from leanpipe.shrink.refit import refit

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


class Widths(NamedTuple):
    """How wide every layer is."""

    hidden_size: int
    mlp_channels: int
    kv_groups: int
    """Groups of attention heads with one key and value each; 0 for a model that has no groups."""


def widths_of(config: "PretrainedConfig") -> Widths:
    """Return the widths of the model that `config` describes."""
    return Widths(config.hidden_size, mlp_channels(config), getattr(config, "num_key_value_heads", None) or 0)


def shared_widths(config: "PretrainedConfig", width: float) -> Widths:
    """Return `width` times the hidden size, MLP channels and groups of heads.

    Sizes are multiples of 64, which 4-bit kernels want, where that is near enough to `width` and the whole ones are such;
    else of 32, 16 or 8.
    """
    whole = widths_of(config)
    if width == 1:
        return whole
    groups = max(1, round(width * whole.kv_groups))
    heads = groups * (config.num_attention_heads // max(1, whole.kv_groups))
    return Widths(
        _share(whole.hidden_size, width, heads),
        _share(whole.mlp_channels, width),
        groups if whole.kv_groups else 0,
    )


def narrow_config(config: "PretrainedConfig", widths: Widths) -> "PretrainedConfig":
    """Return a copy of `config` with other widths; a head keeps its size."""
    whole = widths_of(config)
    if widths == whole:
        return config
    smaller = copy.deepcopy(config)
    if widths.mlp_channels != whole.mlp_channels:
        set_mlp_channels(smaller, widths.mlp_channels)
    if widths.kv_groups != whole.kv_groups or widths.hidden_size != whole.hidden_size:
        heads = config.num_attention_heads
        smaller.head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        smaller.num_key_value_heads = widths.kv_groups
        smaller.num_attention_heads = widths.kv_groups * (heads // whole.kv_groups)
        smaller.hidden_size = widths.hidden_size
    return smaller


def _share(size: int, width: float, divisor: int = 1) -> int:
    """A multiple of `divisor`: transformers refuses hidden sizes that are none of the number of heads."""
    for step in (64, 32, 16, 8, 1):
        whole = math.lcm(step, divisor)
        share = max(whole, round(width * size / whole) * whole)
        if size % step == 0 and (abs(share / size - width) < _NEAR + 1e-6 or step in (1, 8)):
            return share
    raise AssertionError("every size is a multiple of 1")


_NEAR = 0.1
"""How far a share may be from the width that was asked for, to be a multiple of more."""


@dataclass(frozen=True)
class Cut:
    """The smaller model, in float32, and which entries of the hidden states it kept, in rising order."""

    model: "PreTrainedModel"
    hidden: "torch.Tensor"


def cut_model(
    model: "PreTrainedModel", layers: str, kept: Sequence[int], widths: Widths, importance: Importance | None
) -> Cut:
    """Make a copy of `model` with its layers `kept` and without its least important entries.

    Its layers lie in the list of the name `layers`. Without `importance` it keeps its widths. What is left is the first
    thing that a student knows; `model` itself is not changed.
    """
    import torch

    whole = widths_of(model.config)
    config = narrow_config(with_layers(model.config, list(kept)), widths)
    student = random_student(config)
    scales: dict[str, float] = {}
    hidden = torch.arange(whole.hidden_size)
    if widths.hidden_size != whole.hidden_size:
        assert importance
        hidden = _most(importance.hidden_D, widths.hidden_size)
        scales = _norm_scales(model, layers, importance, hidden)
    cutters = {new: _Cutter(model, old, widths, importance, hidden) for new, old in enumerate(kept)}
    weights = {}
    for name, old in kept_names(model.state_dict(), layers, list(kept)).items():
        inner = name.removeprefix(f"{layers}.")
        index, _, part = inner.partition(".")
        weight = weight_of(model, old)
        cut = cutters[int(index)].of_layer(part, weight) if inner != name else _last(weight, hidden, whole)
        weights[name] = cut.float() * scales.get(old.removesuffix(".weight"), 1.0)
    student.load_state_dict(weights)
    student.generation_config = model.generation_config
    return Cut(student, hidden)


class _Cutter:
    """Takes from the parameters of one layer what stays."""

    def __init__(
        self,
        model: "PreTrainedModel",
        layer: int,
        widths: Widths,
        importance: Importance | None,
        hidden: "torch.Tensor",
    ):
        import torch

        config, whole = model.config, widths_of(model.config)
        heads = config.num_attention_heads
        self._hidden, self._whole = hidden, whole
        self._head = getattr(config, "head_dim", None) or config.hidden_size // heads
        self._heads_of_group = heads // max(1, whole.kv_groups)
        self._channels, self._groups = torch.arange(whole.mlp_channels), torch.arange(whole.kv_groups)
        self._moments: torch.Tensor | None = None
        if widths.mlp_channels != whole.mlp_channels and importance:
            self._channels = _most(importance.neurons_LF[layer], widths.mlp_channels)
            self._moments = importance.moments[layer] if importance.moments else None
        if widths.kv_groups != whole.kv_groups and importance:
            self._groups = _most(importance.groups_LG[layer], widths.kv_groups)

    def of_layer(self, part: str, weight: "torch.Tensor") -> "torch.Tensor":
        """What is kept of one parameter: of each of its sides, by what lies along it."""
        block, _, rest = part.partition(".")
        product = rest.split(".")[0]
        if block == "mlp" and product in ("gate_proj", "up_proj"):
            return _pick(weight, self._channels, self._hidden)
        if block == "mlp" and product == "down_proj":
            if weight.dim() == 1:
                return weight[self._hidden]
            return self._of_channels(weight.T).T[self._hidden]
        if block == "mlp" and product == "c_fc":  # stored as (in, out)
            return weight[self._channels] if weight.dim() == 1 else weight[:, self._channels]
        if block == "mlp" and product == "c_proj":
            return weight if weight.dim() == 1 else self._of_channels(weight)
        if block == "self_attn" and product in ("q_proj", "k_proj", "v_proj"):
            return _pick(weight, self._rows(product), self._hidden)
        if block == "self_attn" and product == "o_proj":
            return _pick(weight, self._hidden, self._rows(product))
        return weight if block == "self_attn" else _last(weight, self._hidden, self._whole)  # norms of a head

    def _of_channels(self, weight_FD: "torch.Tensor") -> "torch.Tensor":
        """The rows of the channels that stay, fitted anew if it was measured what all of them carry."""
        if self._moments is None:
            return weight_FD[self._channels]
        return refit(weight_FD.float(), self._moments, self._channels)

    def _rows(self, product: str) -> "torch.Tensor":
        """The rows of the heads in the groups: one head of a group in k and v, several in q and o."""
        import torch

        size = self._head * (1 if product in ("k_proj", "v_proj") else self._heads_of_group)
        return (self._groups[:, None] * size + torch.arange(size)).flatten()


def _pick(weight: "torch.Tensor", out: "torch.Tensor", into: "torch.Tensor") -> "torch.Tensor":
    return weight[out] if weight.dim() == 1 else weight[out][:, into]


def _last(weight: "torch.Tensor", hidden: "torch.Tensor", whole: Widths) -> "torch.Tensor":
    """Norms, embeddings and head: the hidden states lie along their last side."""
    return weight[..., hidden] if weight.shape[-1] == whole.hidden_size else weight


def _norm_scales(
    model: "PreTrainedModel", layers: str, importance: Importance, hidden: "torch.Tensor"
) -> dict[str, float]:
    """Factors for each norm's weights: the entries that stay are large ones, and so is what it divides by."""
    found = {}
    for name, _, _ in norms(model, list(model.get_submodule(layers))):
        squares = importance.squares[name]
        found[name] = float((squares[hidden].mean() / squares.mean()).sqrt())
    return found


def _most(importance: "torch.Tensor", count: int) -> "torch.Tensor":
    """Indices of the `count` largest, in rising order."""
    return importance.topk(count).indices.sort().values
