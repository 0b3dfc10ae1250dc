"""Which models llama.cpp knows, what it must be told of their shape, and how it wants their weights laid out.

llama.cpp computes a family of models by a graph of its own, so a model that differs from its family in anything that the
graph does not read would be answered wrongly without a word. Such a model is refused here by the name of what differs.
The layouts are those of llama.cpp's own converter, convert_hf_to_gguf.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError
from leanpipe.models.count import unless_multiplied_out

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Tensor:
    """A weight as llama.cpp names it: its shape there, and how to get its values [shape] in float32."""

    name: str
    shape: tuple[int, ...]
    module: str
    """The module of the transformers model that it belongs to; empty for what is computed from the config."""
    read: Callable[[], "torch.Tensor"]


@dataclass(frozen=True)
class Family:
    """What distinguishes one family of models in llama.cpp."""

    architecture: str
    rotated: bool = True
    """Whether positions are rotations of queries and keys (RoPE)."""
    interleaved: bool = False
    """Whether llama.cpp rotates neighbours of a head, where transformers rotates its two halves."""
    added_to_norms: float = 0.0
    """Gemma keeps its norms' weights less 1."""
    transposed: tuple[str, ...] = ()
    """Modules that hold their weights as [inputs, outputs]."""
    activation: tuple[str, ...] = ("silu",)
    sliding: int = 0
    """Every how many layers one sees everything, the others a window; 0 if all see everything."""


_GELU = ("gelu_pytorch_tanh",)
FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", interleaved=True),
    "mistral": Family("llama", interleaved=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma", added_to_norms=1.0, activation=_GELU),
    "gemma2": Family("gemma2", added_to_norms=1.0, activation=_GELU, sliding=2),
    "gemma3_text": Family("gemma3", added_to_norms=1.0, activation=_GELU, sliding=6),
    "gpt2": Family(
        "gpt2",
        rotated=False,
        transposed=("c_attn", "c_proj", "c_fc"),
        activation=("gelu_new", "gelu_pytorch_tanh"),
    ),
}
"""By the `model_type` of transformers' configs."""


def check_architecture(config: "PretrainedConfig") -> None:
    """Raise UserError, in one sentence, for a model that GGUF cannot hold as llama.cpp would compute it."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f"a model of type {config.model_type} cannot be written as GGUF here, only {', '.join(FAMILIES)} can: take "
            f"the GGUF formats out of quantize.formats (int8 and nf4 quantise it){unless_multiplied_out(config)}"
        )
    if reason := _difference(config, FAMILIES[config.model_type]):
        raise UserError(
            f"this {config.model_type} model cannot be written as GGUF: {reason}, which llama.cpp does not compute; take "
            "the GGUF formats out of quantize.formats"
        )


def _difference(config: "PretrainedConfig", family: Family) -> str:
    """What of the model llama.cpp's graph of the family would not compute; empty if nothing."""
    named = ("hidden_act", "hidden_activation", "activation_function")
    activation = next((value for name in named if (value := getattr(config, name, None))), None)
    if activation not in family.activation:
        return f"its activation is {activation}"
    rope = _rope(config)
    if family.rotated and rope.get("rope_type", "default") not in ("default", "linear", "yarn", "llama3"):
        return f"its positions are stretched by {rope['rope_type']}"
    if rope.get("rope_type") == "llama3" and family.architecture != "llama":
        return "its positions are stretched by llama3"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "only a part of each head is rotated"
    scalar = getattr(config, "query_pre_attn_scalar", None)
    if scalar is not None and scalar != config.head_dim:
        return f"its attention is scaled by {scalar} instead of the head's size {config.head_dim}"
    if family.architecture == "gpt2" and (
        not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx or config.add_cross_attention
    ):
        return "its attention is not GPT-2's own"
    if family.architecture == "gemma3" and getattr(config, "attn_logit_softcapping", None):
        return "its attention's logits are capped"
    return _window_difference(config, family)


def _window_difference(config: "PretrainedConfig", family: Family) -> str:
    kinds = list(getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers)
    if config.model_type == "mistral" and config.sliding_window:
        return "its attention sees a sliding window"
    if getattr(config, "use_bidirectional_attention", None):
        return "its attention sees what follows"
    wanted = [
        "sliding_attention" if family.sliding and (layer + 1) % family.sliding else "full_attention"
        for layer in range(len(kinds))
    ]
    return "" if kinds == wanted else "its layers see sliding windows in another order than its family's"


def write_shape(writer: "GGUFWriter", config: "PretrainedConfig") -> None:
    """Write what llama.cpp must know of the model beside its weights."""
    family = FAMILIES[config.model_type]
    heads = config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(
        getattr(config, "intermediate_size", None)
        or getattr(config, "n_inner", None)
        or 4 * config.hidden_size
    )
    writer.add_head_count(heads)
    writer.add_vocab_size(config.vocab_size)
    if not family.rotated:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    size = head_size(config)
    writer.add_head_count_kv(config.num_key_value_heads or heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    _write_rope(writer, config)
    if cap := getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(cap)
    if cap := getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(cap)
    if family.sliding:
        writer.add_sliding_window(config.sliding_window)


def head_size(config: "PretrainedConfig") -> int:
    """How many numbers an attention head has."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rope(config: "PretrainedConfig") -> dict[str, Any]:
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("full_attention", rope)


def _write_rope(writer: "GGUFWriter", config: "PretrainedConfig") -> None:
    from gguf import RopeScalingType

    rope = _rope(config)
    writer.add_rope_freq_base(rope.get("rope_theta", 10_000.0))
    local = (config.rope_parameters or {}).get("sliding_attention", {}).get("rope_theta")
    if local is not None:
        writer.add_rope_freq_base_swa(local)
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(
            rope.get("original_max_position_embeddings") or config.max_position_embeddings
        )


def tensors_of(model: "PreTrainedModel") -> Iterator[Tensor]:
    """List the weights of a model, which may be empty (on the meta device), as llama.cpp names them.

    Raises UserError if it has a weight that llama.cpp's family has no name for.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    config, family = model.config, FAMILIES[model.config.model_type]
    architecture = next(one for one in MODEL_ARCH if MODEL_ARCH_NAMES[one] == family.architecture)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    shared = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, value in model.state_dict().items():
        if shared and name == "lm_head.weight":
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UserError(
                f"this {config.model_type} model cannot be written as GGUF: llama.cpp has no place for {name}"
            )
        module = name.rpartition(".")[0]
        change = _change(family, config, name)
        shape = tuple(value.shape[::-1] if _is_transposed(family, name) else value.shape)
        yield Tensor(found, shape, module, partial(_read, value, change))
    if _rope(config).get("rope_type") == "llama3":
        factors = _llama3_factors(config)
        yield Tensor("rope_freqs.weight", (len(factors),), "", lambda: _tensor(factors))


def _read(value: "torch.Tensor", change: "_Change") -> "torch.Tensor":
    return change(value.float().cpu())


_Change = Callable[["torch.Tensor"], "torch.Tensor"]
"""What is done with the values of a weight."""


def _change(family: Family, config: "PretrainedConfig", name: str) -> _Change:
    if _is_transposed(family, name):
        return lambda value: value.T.contiguous()
    if family.added_to_norms and name.endswith("norm.weight"):
        return lambda value: value + family.added_to_norms
    module = name.rpartition(".")[0]
    if family.interleaved and module.endswith(("q_proj", "k_proj")):
        heads = config.num_attention_heads if module.endswith("q_proj") else config.num_key_value_heads
        return lambda value: interleave(value, heads)
    return lambda value: value


def _is_transposed(family: Family, name: str) -> bool:
    return name.endswith(".weight") and name.split(".")[-2] in family.transposed


def interleave(value: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Reorder rows [heads · size, …] from the two halves of each head to pairs of neighbours."""
    rest = value.shape[1:]
    return value.reshape(heads, 2, -1, *rest).swapaxes(1, 2).reshape(value.shape).contiguous()


def _llama3_factors(config: "PretrainedConfig") -> list[float]:
    """By how much each frequency is stretched (transformers.modeling_rope_utils, `llama3`)."""
    rope, size = _rope(config), head_size(config)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    original = rope["original_max_position_embeddings"]
    factors = []
    for index in range(0, size, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / size)
        smooth = min(1.0, max(0.0, (original / wavelength - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _tensor(values: list[float]) -> "torch.Tensor":
    import torch

    return torch.tensor(values, dtype=torch.float32)
