"""Which parts of a model can be cut, by how its layers are built: nothing is assumed of a class by its name but of Gemma's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from leanpipe.core.errors import UserError
from leanpipe.models.student import layer_list_name

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

Part = Literal["layers", "mlp_channels", "kv_groups", "hidden_size"]
PARTS: tuple[Part, ...] = ("layers", "mlp_channels", "kv_groups", "hidden_size")
NAMES: dict[Part, str] = {
    "layers": "layers",
    "mlp_channels": "MLP channels",
    "kv_groups": "groups of attention heads",
    "hidden_size": "hidden size",
}

_GATED = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
_PLAIN = {"mlp.c_fc", "mlp.c_proj"}
"""As in GPT-2, whose products are stored the other way round."""
_HEADS = {f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
_HEAD_NORMS = {"self_attn.q_norm", "self_attn.k_norm"}
"""Of one head each, as in Qwen 3 and Gemma 3: no cut changes them."""


def cuttable_parts(model: "PreTrainedModel") -> tuple[Part, ...]:
    """Return the parts of such a model that can be cut; none if its layers do not lie in one list."""
    try:
        layers = list(model.get_submodule(layer_list_name(model)))
    except UserError:
        return ()
    built = [_products(layer) for layer in layers]
    found: list[Part] = ["layers"]
    if all(names & _MLP in (_GATED, _PLAIN) for names in built):
        found.append("mlp_channels")
    if all(names & (_HEADS | _HEAD_NORMS) >= _HEADS for names in built) and _groups(model.config) > 1:
        found.append("kv_groups")
    # Gemma multiplies its embeddings by the root of the width, and adds one to its norms' weights.
    plain = not model.config.model_type.startswith("gemma")
    known = _GATED | _HEADS | _HEAD_NORMS
    as_llama = all({name for name in names if not name.endswith("layernorm")} <= known for names in built)
    if plain and as_llama and "mlp_channels" in found and _groups(model.config):
        found.append("hidden_size")
    return tuple(found)


_MLP = _GATED | _PLAIN


def check_cuttable(model: "PreTrainedModel", wanted: Sequence[Part], settings: str) -> None:
    """Raise UserError that says which parts of such a model can be cut if one of the `wanted` ones cannot."""
    possible = cuttable_parts(model)
    for part in wanted:
        if part not in possible:
            others = ", ".join(NAMES[one] for one in possible) or "no part"
            raise UserError(
                f"the {NAMES[part]} of a {model.config.model_type} model cannot be cut, only {others} can: "
                f"leave out {settings.format(part=part)}"
            )


def mlp_output(layer: "torch.nn.Module") -> "torch.nn.Module":
    """Return the last product of the layer's MLP, which reads the channels."""
    mlp = layer.get_submodule("mlp")
    return mlp.get_submodule("down_proj" if hasattr(mlp, "down_proj") else "c_proj")


def mlp_channels(config: "PretrainedConfig") -> int:
    """Return the number of channels of each MLP."""
    if config.model_type == "gpt2":
        return config.n_inner or 4 * config.n_embd
    return getattr(config, "intermediate_size", 0)


def set_mlp_channels(config: "PretrainedConfig", channels: int) -> None:
    """Give the config another number of channels."""
    setattr(config, "n_inner" if config.model_type == "gpt2" else "intermediate_size", channels)


def _groups(config: "PretrainedConfig") -> int:
    return getattr(config, "num_key_value_heads", None) or 0


def _products(layer: "torch.nn.Module") -> set[str]:
    return {name for name, module in layer.named_modules() if getattr(module, "weight", None) is not None}
