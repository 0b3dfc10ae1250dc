"""A smaller model made of some of the layers of a larger one."""

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.core.files import read_object

SHAPE = "shape.json"
"""In the folder of a student that was cut: which of its teacher's layers and hidden states it has, and what of it is `intact`."""

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def evenly_spaced(layers: int, kept: int) -> list[int]:
    """Choose `kept` of the indices 0 to `layers` - 1, the first and the last among them, at distances as equal as can be."""
    if kept == 1:
        return [0]
    return [round(position * (layers - 1) / (kept - 1)) for position in range(kept)]


def first_and_last(layers: int, kept: int) -> list[int]:
    """Choose `kept` of the indices 0 to `layers` - 1: a third of them from the end, the others from the start."""
    last = kept // 3
    return [*range(kept - last), *range(layers - last, layers)]


def most_important(influence_L: "torch.Tensor", kept: int) -> list[int]:
    """Choose `kept` of the layers, those that change the most what goes through them."""
    return sorted(influence_L.topk(kept).indices.tolist())


def write_shape(out: Path, layers: Sequence[int], hidden: "torch.Tensor", intact: Sequence[str]) -> None:
    """Write which of its teacher's layers and hidden states the student in `out` has, and which parts of it are `intact`."""
    (out / SHAPE).write_text(json.dumps({"layers": layers, "hidden": hidden.tolist(), "intact": intact}))


def pass_on_shape(model: Path, out: Path, *, first_layer: bool = True) -> None:
    """Copy what a student has of its teacher to the folder of a model made of it, which may have another `first_layer`."""
    if (model / SHAPE).exists():
        shape = read_object(model / SHAPE)
        shape["intact"] = [part for part in shape.get("intact", []) if first_layer or part != "first_layer"]
        (out / SHAPE).write_text(json.dumps(shape))


def intact_parts(folder: Path) -> list[str]:
    """Read which parts of a student are its teacher's as they were, for `freeze`; none of a model that is no student."""
    return read_object(folder / SHAPE).get("intact", [])


def freeze(model: "PreTrainedModel", parts: Sequence[str]) -> int:
    """Keep `parts` of a model from learning, of "embeddings" (with the output layer), "norms" and "first_layer"; count their parameters."""
    chosen = [model.get_submodule(layer_list_name(model))[0]] if "first_layer" in parts else []
    if "embeddings" in parts:
        chosen += [model.get_input_embeddings(), model.get_output_embeddings()]
    if "norms" in parts:
        chosen += [module for module in model.modules() if "Norm" in type(module).__name__]
    frozen = {one for module in chosen for one in module.parameters()}
    for one in frozen:
        one.requires_grad_(False)
    return sum(one.numel() for one in frozen)


def random_student(config: "PretrainedConfig") -> "PreTrainedModel":
    """Make a model with new weights, in float32, drawn with torch's current seed."""
    import torch
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config.__dict__.pop("uncut_parameters", None)  # its teacher's
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def change_vocabulary(
    model: "PreTrainedModel", old: "PreTrainedTokenizerBase", new: "PreTrainedTokenizerBase"
) -> None:
    """Give the model the vocabulary of `new`: tokens that `old` also had keep their vectors, others have new ones."""
    import torch

    vectors = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings().weight.detach().clone()
    model.resize_token_embeddings(len(new), mean_resizing=False)
    known = old.get_vocab()
    shared = [(index, known[token]) for token, index in new.get_vocab().items() if token in known]
    to, origin = (
        torch.tensor(column, dtype=torch.long)
        for column in (zip(*shared, strict=True) if shared else ([], []))
    )
    for parameter, saved in (
        (model.get_input_embeddings().weight, vectors),
        (model.get_output_embeddings().weight, head),
    ):
        with torch.no_grad():
            parameter.normal_(std=model.config.initializer_range)
            parameter[to] = saved[origin]
    _use_special_tokens(model, new)


def _use_special_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    for config in (model.config, model.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, getattr(tokenizer, name))


def layer_list_name(model: "PreTrainedModel") -> str:
    """Return the name of the list that holds the layers, such as `model.layers` or `transformer.h`."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return name
    raise UserError(
        f"layers cannot be taken from a {model.config.model_type} model, which does not keep them in one list: "
        "set shrink.initialization=random, or choose another teacher"
    )


def kept_names(names: Iterable[str], layer_list: str, kept: list[int]) -> dict[str, str]:
    """Return the names of the weights that stay, by what they are called when the layers that stay are renumbered."""
    new_index = {str(old): new for new, old in enumerate(kept)}
    chosen = {}
    for name in names:
        before, found, rest = name.partition(f"{layer_list}.")
        index, _, inner = rest.partition(".")
        if not found or before:
            chosen[name] = name
        elif index in new_index:
            chosen[f"{layer_list}.{new_index[index]}.{inner}"] = name
    return chosen
