"""Faults of a GGUF file: what llama.cpp, and whoever else serves the file, reads there instead of in the folder's other files."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.compression.calibration import read_importance
from leanpipe.compression.gguf_architectures import FAMILIES, tensors_of, write_shape
from leanpipe.compression.gguf_export import Importance
from leanpipe.compression.gguf_types import bytes_of_weights
from leanpipe.engines.gguf_file import read_gguf
from leanpipe.evaluation.parity.bounds import Bounds, Fault
from leanpipe.evaluation.parity.probes import special_tokens
from leanpipe.evaluation.parity.text_faults import TextSide
from leanpipe.evaluation.parity.weight_faults import RESTORE, Wrong, named_faults, relative_error
from leanpipe.models.count import read_config
from leanpipe.models.load import leading_bos
from leanpipe.models.offload import GGUF_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_IN_FILE = f"in {GGUF_FILE}"


def find_gguf_text_faults(trained: TextSide, folder: Path) -> Iterator[Fault]:
    """Yield what the file says otherwise than the trained model of tokens, their kinds, BOS, ends and template."""
    from gguf import TokenType

    facts = _facts(folder)
    tokens, kinds = facts.get("tokens", []), facts.get("token_type", [])
    known = special_tokens(trained.tokenizer)
    moved = {name: id_ for name, id_ in known.items() if id_ >= len(tokens) or tokens[id_] != name}
    if moved and {tokens[id_] for id_ in moved.values() if id_ < len(tokens)} == set(moved):
        yield Fault(
            "swapped_specials", f"the special tokens {', '.join(moved)} are swapped {_IN_FILE}: {RESTORE}"
        )
    elif moved:
        token, id_ = next(iter(moved.items()))
        yield Fault(
            "moved_special", f"token {id_} is not {token} {_IN_FILE}, as it was in training: {RESTORE}"
        )
    for token, id_ in known.items():
        if id_ < len(kinds) and kinds[id_] not in (
            TokenType.CONTROL,
            TokenType.USER_DEFINED,
            TokenType.UNKNOWN,
        ):
            yield Fault(
                "special_as_text", f"the special token {token} is marked as text {_IN_FILE}: {RESTORE}"
            )
    yield from _begin_and_end(trained, facts)
    yield from _template(trained, facts)


def find_gguf_config_faults(trained: Path, folder: Path) -> Iterator[Fault]:
    """Yield each number of the file, such as the rotary base, that is not what the trained config makes it."""
    config = read_config(trained)
    wanted = _Numbers()
    write_shape(wanted, config)  # type: ignore[arg-type]
    found, architecture = read_gguf(folder), FAMILIES[config.model_type].architecture
    for name, value in wanted.values.items():
        field = found.fields.get(name.format(arch=architecture))
        now = field.contents() if field else None
        if isinstance(now, int | float) and math.isclose(now, value, rel_tol=1e-5):
            continue
        kind = "rope_differs" if "rope" in name else "norm_differs" if "epsilon" in name else "config_differs"
        key = name.format(arch=architecture)
        yield Fault(kind, f"{key} is {now} {_IN_FILE}, and was {value} in training: {RESTORE}")


def find_gguf_weight_faults(trained: "PreTrainedModel", folder: Path, bounds: Bounds) -> Iterator[Fault]:
    """Yield what is wrong with the file's tensors: each must be what storing the trained one in its type gives."""
    import numpy as np
    import torch
    from gguf.quants import dequantize

    importance = read_importance(folder)
    stored = {tensor.name: tensor for tensor in read_gguf(folder).tensors}
    wrong, compared = [], 0
    for tensor in tensors_of(trained):
        compared += 1
        if tensor.name not in stored:
            yield Fault("tensor_missing", f"there is no tensor {tensor.name} {_IN_FILE}: {RESTORE}")
            continue
        one = stored.pop(tensor.name)
        kind = one.tensor_type.name.lower()
        raw = bytes_of_weights(tensor.read(), kind, importance.get(tensor.module))
        if np.array_equal(raw, one.data):
            continue
        found = torch.from_numpy(dequantize(one.data, one.tensor_type).astype("float32"))
        expected = torch.from_numpy(dequantize(raw, one.tensor_type).astype("float32"))
        if not (error := relative_error(expected, found)) <= bounds.tensors:
            kept = (expected, found) if expected.dim() == 1 or tensor.name == _EMBEDDING else None
            wrong.append(Wrong(tensor.name, expected.dim(), error, kept))
    if _HEAD in stored:  # the trained one shares the embeddings' weights
        yield from _other_head(trained, stored[_HEAD], importance)
    yield from named_faults(wrong, compared, _EMBEDDING)


class _Numbers:
    """Takes what `write_shape` writes of a model, by the names that a file has for it."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def __getattr__(self, method: str) -> Any:
        names = {
            "add_rope_freq_base": "{arch}.rope.freq_base",
            "add_rope_freq_base_swa": "{arch}.rope.freq_base_swa",
            "add_rope_scaling_factor": "{arch}.rope.scaling.factor",
            "add_rope_dimension_count": "{arch}.rope.dimension_count",
            "add_layer_norm_rms_eps": "{arch}.attention.layer_norm_rms_epsilon",
            "add_layer_norm_eps": "{arch}.attention.layer_norm_epsilon",
            "add_head_count": "{arch}.attention.head_count",
            "add_head_count_kv": "{arch}.attention.head_count_kv",
            "add_block_count": "{arch}.block_count",
            "add_sliding_window": "{arch}.attention.sliding_window",
        }

        def take(value: Any) -> None:
            if method in names:
                self.values[names[method]] = value

        return take


def _begin_and_end(trained: TextSide, facts: Mapping[str, Any]) -> Iterator[Fault]:
    tokenizer = trained.tokenizer
    if (now := facts.get("eos_token_id")) != (was := tokenizer.eos_token_id):
        yield Fault(
            "eos_differs",
            f"the EOS is {now} {_IN_FILE}, and was {trained.spell(was)} in training: {RESTORE}",
        )
    pad, had_pad = facts.get("padding_token_id"), tokenizer.pad_token_id
    if pad is not None and pad != had_pad and pad == facts.get("eos_token_id"):
        yield Fault(
            "eos_is_pad",
            f"the pad token is the EOS {pad} {_IN_FILE}, and was {trained.spell(had_pad)}: {RESTORE}",
        )
    puts, put = bool(facts.get("add_bos_token", False)), leading_bos(tokenizer) is not None
    if puts and not put:
        yield Fault(
            "doubled_bos",
            f"add_bos_token is true {_IN_FILE}, and the tokenizer put no BOS in training: a server that heeds it puts one "
            f"before the template's; {RESTORE}",
        )
    if put and not puts:
        yield Fault(
            "bos_not_added",
            f"add_bos_token is not set {_IN_FILE}, and the tokenizer put a BOS in training: {RESTORE}",
        )


def _template(trained: TextSide, facts: Mapping[str, Any]) -> Iterator[Fault]:
    was, now = trained.tokenizer.chat_template, facts.get("chat_template")
    if isinstance(was, dict):
        was = was.get("default")
    if was and not now:
        yield Fault("lost_template", f"the chat template is lost: there is none {_IN_FILE}; {RESTORE}")
    elif was and now != was:
        yield Fault(
            "other_template", f"the chat template {_IN_FILE} is another than the trained one: {RESTORE}"
        )


def _other_head(trained: "PreTrainedModel", head: Any, importance: Importance) -> Iterator[Fault]:
    import torch
    from gguf.quants import dequantize

    expected = trained.get_input_embeddings().weight.detach().float().cpu()
    names = {id(module): name for name, module in trained.named_modules()}
    counts = importance.get(names[id(trained.get_input_embeddings())])
    anew = dequantize(bytes_of_weights(expected, head.tensor_type.name.lower(), counts), head.tensor_type)
    found = dequantize(head.data, head.tensor_type)
    if anew.shape != found.shape or relative_error(torch.from_numpy(anew), torch.from_numpy(found)) > 0.01:
        yield Fault(
            "tied_head_lost",
            f"the output layer shared the embeddings' weights in training, and has others {_IN_FILE}: {RESTORE}",
        )


def _facts(folder: Path) -> dict[str, Any]:
    """What the file says of its tokenizer, by the last part of each name."""
    fields = read_gguf(folder).fields.items()
    return {
        name.removeprefix("tokenizer.").removeprefix("ggml."): field.contents()
        for name, field in fields
        if name.startswith("tokenizer.")
    }
