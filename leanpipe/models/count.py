"""How large a model is, and how long a text it reads, from its config alone: nothing is loaded."""

import copy
import functools
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError, refused_if_unreadable
from leanpipe.core.estimate import Expected
from leanpipe.core.files import read_object

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def know_classes(path: Path) -> None:
    """Import our own classes if the model folder `path` needs some: they are registered with transformers by that."""
    if str(read_object(path / "config.json").get("model_type")).startswith(FACTORED):
        importlib.import_module("leanpipe.models.factored")


FACTORED = "low_rank_"
"""How the `model_type` of models with pairs of factors begins (see `leanpipe.models.factored`)."""


def unless_multiplied_out(config: "PretrainedConfig") -> str:
    """Say what else helps where an engine refuses a model for its pairs of factors; nothing for any other model."""
    if not config.model_type.startswith(FACTORED):
        return ""
    return ", or multiply its factors out, which the flow distill does with low_rank.saved=dense"


def read_config(path: Path) -> "PretrainedConfig":
    """Read the config of the model folder `path`. Raises UserError if there is none."""
    from transformers import AutoConfig

    know_classes(path)
    try:
        with refused_if_unreadable(f"the config.json of {path}", "give the folder of a language model"):
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            layers = getattr(config.get_text_config(), "num_hidden_layers", 1)
    except UserError as error:
        if brings_code(path):
            raise UserError(refuse_code(path)) from error
        raise
    if layers < 1:
        raise UserError(f"the model {path} has {layers} layers: its config.json must say at least one")
    return config


def expected_config(model: Expected) -> "PretrainedConfig":
    """The config of a model that may not be there yet. Raises KeyError if nothing is known of it."""
    return read_config(model.path) if model.path else model.facts["model"]


def tokenizer_folder(model: Expected) -> Path | None:
    """Where the tokenizer lies that a model has, or will have; None if it has yet to be trained."""
    return model.path or model.facts.get("tokenizer")


def longest_text(config: "PretrainedConfig") -> int | None:
    """Return how many tokens a model with this config can read; None if there is no end to it.

    Positions that are stretched reach further than those of its first training. A sliding window is no limit: it says how
    far back a token looks.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    rope = getattr(config, "rope_parameters", None) or {}
    # Elsewhere `max_position_embeddings` is the length after stretching.
    if positions and rope.get("rope_type") in ("linear", "dynamic", "yarn"):
        first = rope.get("original_max_position_embeddings") or positions
        return max(positions, int(first * (rope.get("factor") or 1)))
    return positions


def check_context(model: Expected, tokens: int, settings: str) -> None:
    """Raise UserError if texts of `tokens` tokens, for which `settings` ask, are longer than the model can read.

    Some models stop with an IndexError there, most go on and predict nonsense. Of a model that is not there yet its config
    must be known, or nothing is checked.
    """
    if model.path is None and "model" not in model.facts:
        return
    limit = longest_text(expected_config(model))
    if limit and tokens > limit:
        name = (
            f"the model {model.path}" if model.path else f"the model that {model.origin or 'a stage'} makes"
        )
        raise UserError(
            f"{settings} asks for texts of {tokens:,} tokens, but {name} reads {limit:,} at most: lower it to that"
        )


def brings_code(path: Path) -> bool:
    """Whether the folder `path` names Python files of its own, for transformers to run, as the classes of its model."""
    return any("auto_map" in read_object(path / name) for name in ("config.json", "tokenizer_config.json"))


def refuse_code(path: Path) -> str:
    """Say why a model that brings code is refused: it could do anything here, and who wrote it is not its user."""
    return (
        f"{path} cannot be loaded without running the Python code that came with it (auto_map in its JSON files), and "
        "such code is never run: choose a model of an architecture that transformers has itself"
    )


def empty_model(config: "PretrainedConfig") -> "PreTrainedModel":
    """Make the model that `config` describes, on the meta device: shapes and names, but no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count_parameters(model: "PreTrainedModel") -> int:
    """Count the parameters of the model; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_of(config: "PretrainedConfig") -> int:
    """Count the parameters of the model that `config` describes; tied weights count once."""
    return _parameters_of(type(config), config.to_json_string(use_diff=False))  # type: ignore[arg-type]


def whole_parameters(config: "PretrainedConfig") -> int:
    """Count the parameters of the model that `config` describes, with those that a cut of its vocabulary took."""
    return getattr(config, "uncut_parameters", None) or parameters_of(config)


# Even an empty model of many layers takes half a second, and plans ask for the same ones.
@functools.lru_cache(256)
def _parameters_of(kind: "type[PretrainedConfig]", described: str) -> int:
    return count_parameters(empty_model(kind.from_dict(json.loads(described))))


def with_layers(config: "PretrainedConfig", kept: list[int]) -> "PretrainedConfig":
    """Return a copy of `config` that has only the layers `kept`, given by their indices."""
    smaller = copy.deepcopy(config)
    smaller.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        smaller.layer_types = [config.layer_types[index] for index in kept]
    return smaller


def parameters_with_layers(config: "PretrainedConfig", layers: int) -> int:
    """Count the parameters of the model that `config` describes if it had its first `layers` layers only."""
    return parameters_of(with_layers(config, list(range(layers))))
