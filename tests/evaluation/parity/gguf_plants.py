"""Faults planted in a GGUF file itself, which llama.cpp and other servers read instead of the folder's other files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from leanpipe.compression.gguf_types import bytes_of_weights
from leanpipe.models.offload import GGUF_FILE
from tests.evaluation.parity.plants import Plant
from tests.support.tiny_models import SEPARATOR, TURN_END, TURN_START

Facts = dict[str, Any]
Tensors = dict[str, Any]


def rewrite(folder: Path, change: Callable[[Facts, Tensors], object]) -> None:
    """Write the file anew with other facts (by their names) and other values of tensors, each in the type that it had."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    file = folder / GGUF_FILE
    reader = GGUFReader(file)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    facts = {name: field.contents() for name, field in fields.items()}
    kinds = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    stored = {one.name: one.data for one in reader.tensors}
    before = {one.name: dequantize(one.data, one.tensor_type) for one in reader.tensors}
    tensors = dict(before)
    change(facts, tensors)
    writer = GGUFWriter(folder / "planted", facts.pop("general.architecture"))
    for name, value in facts.items():
        kind = fields[name].types
        writer.add_key_value(name, value, kind[0], kind[-1] if kind[0] == GGUFValueType.ARRAY else None)
    for name, values in tensors.items():
        kind = kinds.get(name, kinds["token_embd.weight"])
        same = values is before.get(name)  # rounding what is rounded already would change it
        data = stored[name] if same else bytes_of_weights(torch.tensor(values), kind.name.lower())
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "planted").replace(file)


def _fact(name: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda facts, _: facts.update({name: value}))


def _lost(name: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda facts, _: facts.pop(name))


def _tensor(name: str, change: Callable) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda _, tensors: tensors.update({name: change(tensors[name])}))


def _swap(facts: Facts, _: Tensors) -> None:
    tokens = facts["tokenizer.ggml.tokens"]
    one, other = tokens.index(TURN_START), tokens.index(TURN_END)
    tokens[one], tokens[other] = tokens[other], tokens[one]


def _as_text(facts: Facts, _: Tensors) -> None:
    facts["tokenizer.ggml.token_type"][facts["tokenizer.ggml.tokens"].index(TURN_START)] = 1


def _shift(rows):
    import numpy as np

    return np.concatenate([rows[:300], rows[301:], rows[300:301]])


def _another_head(_: Facts, tensors: Tensors) -> None:
    tensors["output.weight"] = tensors["token_embd.weight"][::-1].copy()


def _not_interleaved(rows):
    """As a converter leaves them that forgets llama.cpp's order of rotated pairs; tiny_llama has 4 heads."""
    return rows.reshape(4, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


_BEGINS = "tokenizer.ggml.add_bos_token"
GGUF_PLANTS = (
    Plant("add_bos_token ignored", "bos_not_added", _fact(_BEGINS, False)),
    Plant("EOS = pad", "eos_is_pad", _fact("tokenizer.ggml.padding_token_id", 2)),
    Plant("another EOS", "eos_differs", _fact("tokenizer.ggml.eos_token_id", 0)),
    Plant("special tokens marked as text", "special_as_text", lambda folder: rewrite(folder, _as_text)),
    Plant("lost template", "lost_template", _lost("tokenizer.chat_template")),
    Plant(
        "other template", "other_template", _fact("tokenizer.chat_template", f"{SEPARATOR}{{{{ messages }}}}")
    ),
    Plant("swapped special tokens", "swapped_specials", lambda folder: rewrite(folder, _swap)),
    Plant("another rotary base", "rope_differs", _fact("llama.rope.freq_base", 1e6)),
    Plant("another epsilon", "norm_differs", _fact("llama.attention.layer_norm_rms_epsilon", 1e-2)),
    Plant("norm off by one", "norm_differs", _tensor("output_norm.weight", lambda values: values - 1)),
    Plant("rotated halves", "weights_differ", _tensor("blk.0.attn_q.weight", _not_interleaved)),
    Plant("tied head lost", "tied_head_lost", lambda folder: rewrite(folder, _another_head)),
    Plant("vocabulary cut wrongly", "vocabulary_shifted", _tensor("token_embd.weight", _shift)),
)
"""The doubled BOS of a file whose model had none is in test_parity_gguf.py."""
