"""A model of the same depth and fewer entries everywhere: hidden states, neurons, heads (as Minitron's width pruning)."""

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.models.importance import Importance, norms

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def narrow_config(config: "PretrainedConfig", width: float) -> "PretrainedConfig":
    """Return a copy of `config` with `width` times the hidden size, neurons, and heads; a head keeps its size.

    Sizes are multiples of 64, which 4-bit kernels want, where that is near enough to `width` and the whole ones are such;
    else of 32, 16 or 8. Raises UserError for what is not built as Llama.
    """
    if width == 1:
        return config
    smaller = copy.deepcopy(config)
    try:
        groups, heads = config.num_key_value_heads, config.num_attention_heads
        smaller.head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        smaller.intermediate_size = _share(config.intermediate_size, width)
    except AttributeError as error:
        raise UserError(
            f"a {config.model_type} model cannot be made narrower, only models built as Llama can: set distill.width to 1"
        ) from error
    smaller.num_key_value_heads = max(1, round(width * groups))
    smaller.num_attention_heads = smaller.num_key_value_heads * (heads // groups)
    smaller.hidden_size = _share(config.hidden_size, width, smaller.num_attention_heads)
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
class Narrowed:
    """The narrower model, in float32, and which entries of the hidden states it kept, in rising order."""

    model: "PreTrainedModel"
    hidden: "torch.Tensor"


def narrow_model(
    model: "PreTrainedModel",
    layers: str,
    importance: Importance,
    width: float,
) -> Narrowed:
    """Make a copy of `model` without its least important entries; its layers lie in the list of the name `layers`."""
    import torch
    from transformers import AutoModelForCausalLM

    config = narrow_config(model.config, width)
    student = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    hidden = _most(importance.hidden_D, config.hidden_size)
    neurons = [_most(each, config.intermediate_size) for each in importance.neurons_LF]
    groups = [_most(each, config.num_key_value_heads) for each in importance.groups_LG]
    scales = _norm_scales(model, layers, importance, hidden)
    weights = {}
    for name, weight in model.state_dict().items():
        inner = name.removeprefix(f"{layers}.")
        index, _, part = inner.partition(".")
        layer = int(index) if inner != name else 0
        cut = _cut(part, weight, hidden, neurons[layer], _rows(groups[layer], config, part), inner != name)
        weights[name] = cut.float() * scales.get(name.removesuffix(".weight"), 1.0)
    student.load_state_dict(weights)
    student.generation_config = model.generation_config
    return Narrowed(student, hidden)


def _cut(
    part: str,
    weight: "torch.Tensor",
    hidden: "torch.Tensor",
    neurons: "torch.Tensor",
    heads: "torch.Tensor",
    in_layer: bool,
) -> "torch.Tensor":
    """What is kept of one parameter: of each of its sides, by what lies along it."""
    product = part.split(".")[-2] if in_layer else ""
    along = {"gate_proj": neurons, "up_proj": neurons, "q_proj": heads, "k_proj": heads, "v_proj": heads}
    if product in ("down_proj", "o_proj"):
        out, into = hidden, neurons if product == "down_proj" else heads
    elif product in along:
        out, into = along[product], hidden
    else:  # norms; embeddings and head, whose other side is the vocabulary
        return weight[hidden] if weight.dim() == 1 else weight[:, hidden]
    return weight[out] if weight.dim() == 1 else weight[out][:, into]


def _rows(groups: "torch.Tensor", config: "PretrainedConfig", part: str) -> "torch.Tensor":
    """The rows of the heads in `groups`: one head of a group in k and v, several in q and o."""
    import torch

    several = (
        1
        if "k_proj" in part or "v_proj" in part
        else config.num_attention_heads // config.num_key_value_heads
    )
    size = several * config.head_dim
    return (groups[:, None] * size + torch.arange(size)).flatten()


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
