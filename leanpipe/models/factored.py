"""Models whose products are pairs of factors: a matrix [O, I] as one of [O, R] times one of [R, I], which are fewer weights.

transformers has no such classes, so these are our own, registered with its auto classes as soon as this module is imported:
`leanpipe.models.count.know_classes` does that for a folder that needs them. No other engine loads them, and none takes them for
what they are not, since their `model_type` is another. `multiplied_out` makes a plain model again, which all load.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from leanpipe.models.count import FACTORED

RANKS = "ranks"
"""The entry of a config that says how many numbers lie between the two factors of a product, by its name."""


class LowRankLinear(torch.nn.Module):
    """A linear layer as two: `down` to the rank, `up` to the outputs."""

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool):
        super().__init__()
        self.down = torch.nn.Linear(inputs, rank, bias=False)
        self.up = torch.nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute both products."""
        return self.up(self.down(x))


class _Factored(PreTrainedModel):
    """What makes pairs of factors of the products that the config names."""

    def __init__(self, config: Any):
        super().__init__(config)
        for name, rank in (getattr(config, RANKS, None) or {}).items():
            dense = self.get_submodule(name)
            assert isinstance(dense, torch.nn.Linear)
            pair = LowRankLinear(dense.in_features, dense.out_features, rank, dense.bias is not None)
            self.set_submodule(name, pair.to(dense.weight.dtype))


class LowRankLlamaConfig(LlamaConfig):
    """Describes a Llama with pairs of factors."""

    model_type = f"{FACTORED}llama"


class LowRankLlamaForCausalLM(_Factored, LlamaForCausalLM):
    """A Llama with pairs of factors."""

    config_class = LowRankLlamaConfig


class LowRankMistralConfig(MistralConfig):
    """Describes a Mistral with pairs of factors."""

    model_type = f"{FACTORED}mistral"


class LowRankMistralForCausalLM(_Factored, MistralForCausalLM):
    """A Mistral with pairs of factors."""

    config_class = LowRankMistralConfig


class LowRankQwen2Config(Qwen2Config):
    """Describes a Qwen 2 with pairs of factors."""

    model_type = f"{FACTORED}qwen2"


class LowRankQwen2ForCausalLM(_Factored, Qwen2ForCausalLM):
    """A Qwen 2 with pairs of factors."""

    config_class = LowRankQwen2Config


class LowRankQwen3Config(Qwen3Config):
    """Describes a Qwen 3 with pairs of factors."""

    model_type = f"{FACTORED}qwen3"


class LowRankQwen3ForCausalLM(_Factored, Qwen3ForCausalLM):
    """A Qwen 3 with pairs of factors."""

    config_class = LowRankQwen3Config


class LowRankGemma3Config(Gemma3TextConfig):
    """Describes a Gemma 3 with pairs of factors."""

    model_type = f"{FACTORED}gemma3_text"


class LowRankGemma3ForCausalLM(_Factored, Gemma3ForCausalLM):
    """A Gemma 3 with pairs of factors."""

    config_class = LowRankGemma3Config


_PAIRS: Mapping[str, tuple[type[PretrainedConfig], type[PretrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LowRankLlamaConfig, LowRankLlamaForCausalLM),
    "mistral": (MistralConfig, LowRankMistralConfig, LowRankMistralForCausalLM),
    "qwen2": (Qwen2Config, LowRankQwen2Config, LowRankQwen2ForCausalLM),
    "qwen3": (Qwen3Config, LowRankQwen3Config, LowRankQwen3ForCausalLM),
    "gemma3_text": (Gemma3TextConfig, LowRankGemma3Config, LowRankGemma3ForCausalLM),
}
"""By the `model_type` of the plain model: its config, and ours."""
FAMILIES = tuple(_PAIRS)

for _plain, _config, _model in _PAIRS.values():
    AutoConfig.register(_config.model_type, _config)
    AutoModelForCausalLM.register(_config, _model)


def is_factored(config: PretrainedConfig) -> bool:
    """Whether the model that `config` describes has pairs of factors."""
    return bool(getattr(config, RANKS, None))


def factored_config(config: PretrainedConfig, ranks: Mapping[str, int]) -> PretrainedConfig:
    """Return the config of such a model with pairs of factors of these ranks."""
    values = config.to_dict() | {RANKS: dict(ranks)}
    return _turned(values, _PAIRS[config.model_type][1])


def plain_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the config of the plain model that a factored one is as when it is multiplied out."""
    values = config.to_dict()
    values.pop(RANKS)
    return _turned(values, _PAIRS[config.model_type.removeprefix(FACTORED)][0])


def _turned(values: dict[str, Any], kind: type[PretrainedConfig]) -> PretrainedConfig:
    values = copy.deepcopy(values)
    for name in ("model_type", "architectures"):
        values.pop(name, None)
    return kind(**values)


def factors_of(
    model: PreTrainedModel, ranks: Mapping[str, int], factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> PreTrainedModel:
    """Return `model` with pairs of factors (up [O, R], down [R, I]) in place of the products that `ranks` names."""
    weights = dict(model.state_dict())
    for name, (up_OR, down_RI) in factors.items():
        del weights[f"{name}.weight"]
        weights |= {f"{name}.up.weight": up_OR, f"{name}.down.weight": down_RI}
        if (bias := weights.pop(f"{name}.bias", None)) is not None:
            weights[f"{name}.up.bias"] = bias
    return _filled(model, factored_config(model.config, ranks), weights)


def multiplied_out(model: PreTrainedModel) -> PreTrainedModel:
    """Return the plain model that computes the same: each pair of factors as their product."""
    weights = dict(model.state_dict())
    for name in getattr(model.config, RANKS):
        up_OR, down_RI = weights.pop(f"{name}.up.weight"), weights.pop(f"{name}.down.weight")
        weights[f"{name}.weight"] = (up_OR.float() @ down_RI.float()).to(up_OR.dtype)
        if (bias := weights.pop(f"{name}.up.bias", None)) is not None:
            weights[f"{name}.bias"] = bias
    return _filled(model, plain_config(model.config), weights)


def _filled(
    model: PreTrainedModel, config: PretrainedConfig, weights: Mapping[str, torch.Tensor]
) -> PreTrainedModel:
    made = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    made.load_state_dict(weights)
    made.generation_config = model.generation_config
    return made.to(model.device).eval()
