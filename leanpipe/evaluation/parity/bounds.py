"""How far the served form of a model may be from the trained one: one row for each format, from measured clean exports.

Arithmetic of another precision moves logits, and a format of fewer bits moves them further. So the bounds of a format are
four times what clean exports of a real student lose: see the table in docs/evaluation.md, which says what was measured.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple

from leanpipe.compression.formats import BitsAndBytes
from leanpipe.compression.gguf_types import GgufType
from leanpipe.compression.quantize_transformers import COMPRESSED, Compressed, WeightOnly
from leanpipe.core.errors import UserError
from leanpipe.engines.gguf_file import read_gguf
from leanpipe.evaluation.parity.onnx_file import read_onnx
from leanpipe.export.onnx_export import OnnxFormat
from leanpipe.models.offload import is_gguf, is_onnx
from leanpipe.models.quantizers import packed_bits

Form = Literal["safetensors", BitsAndBytes, WeightOnly, Compressed, GgufType, OnnxFormat]


class Bounds(NamedTuple):
    """The most that a form may differ by."""

    tensors: float
    """Relative error of each tensor, beside what quantising the trained one gives."""
    kl: float
    """Mean divergence from the trained model's predictions, in nats per token."""
    margin: float
    """Nats by which the trained model preferred the token at which a greedy answer parts from its own."""


BOUNDS: dict[Form, Bounds] = {
    "safetensors": Bounds(tensors=0.003, kl=0.002, margin=0.3),
    "int8": Bounds(tensors=0.003, kl=0.1, margin=1.0),
    "nf4": Bounds(tensors=0.003, kl=0.8, margin=4.0),
    "torchao_int8": Bounds(tensors=0.003, kl=0.1, margin=1.0),
    "auto_round_int4": Bounds(tensors=0.003, kl=0.8, margin=4.0),
    "w8a16": Bounds(tensors=0.003, kl=0.1, margin=1.0),
    "w4a16": Bounds(tensors=0.003, kl=0.8, margin=4.0),
    "q8_0": Bounds(tensors=0.003, kl=0.1, margin=1.0),
    "q6_k": Bounds(tensors=0.003, kl=0.1, margin=1.0),
    "q5_1": Bounds(tensors=0.003, kl=0.3, margin=2.0),
    "q5_k": Bounds(tensors=0.003, kl=0.3, margin=2.0),
    "q5_0": Bounds(tensors=0.003, kl=0.3, margin=2.0),
    "q4_1": Bounds(tensors=0.003, kl=0.8, margin=4.0),
    "q4_k": Bounds(tensors=0.003, kl=0.8, margin=4.0),
    "iq4_nl": Bounds(tensors=0.003, kl=0.8, margin=4.0),
    "q4_0": Bounds(tensors=0.003, kl=0.8, margin=4.0),
    "onnx": Bounds(tensors=0.003, kl=0.002, margin=0.3),
    "onnx_int8": Bounds(tensors=0.003, kl=0.1, margin=1.0),
    "onnx_int4": Bounds(tensors=0.003, kl=0.8, margin=4.0),
}
ENGINE_MARGIN = 0.3
"""Nats by which an answer over HTTP may part from the answer of the same files in process: ties of bf16 and no more."""


def form_of(folder: Path) -> Form:
    """Return the form of a stored model. Raises UserError for one of which no bounds are known."""
    file = folder / "config.json"
    if not file.exists():
        raise UserError(f"{folder} holds no model whose parity can be checked (config.json is missing)")
    if is_gguf(folder):
        return _gguf_form(folder)
    if is_onnx(folder):
        return _onnx_form(folder)
    quantization = json.loads(file.read_text()).get("quantization_config")
    if not quantization:
        return "safetensors"
    if quantization.get("load_in_8bit"):
        return "int8"
    if quantization.get("load_in_4bit") and quantization.get("bnb_4bit_quant_type") == "nf4":
        return "nf4"
    if quantization.get("quant_method") == "torchao" and "Int8WeightOnlyConfig" in json.dumps(quantization):
        return "torchao_int8"
    if quantization.get("quant_method") == "auto-round" and quantization.get("bits") == 4:
        return "auto_round_int4"
    if quantization.get("format") == "pack-quantized" and (form := _packed_form(folder)):
        return form
    raise UserError(
        f"{folder} is quantised by {quantization.get('quant_method')}, of which no bounds of parity are known: register "
        f"one of {', '.join(BOUNDS)}"
    )


def _packed_form(folder: Path) -> Form | None:
    """Return the format of compressed-tensors that has so many bits."""
    bits = packed_bits(folder)
    return next((form for form, known in COMPRESSED.items() if known == bits), None)


def _gguf_form(folder: Path) -> Form:
    """Return the type of fewest bits in the file: its label says what was asked for, not what is stored."""
    found = {tensor.tensor_type.name.lower() for tensor in read_gguf(folder).tensors}
    return next((form for form in reversed(BOUNDS) if form in found), "safetensors")


def _onnx_form(folder: Path) -> Form:
    """Return the format of the fewest bits in the file."""
    file = read_onnx(folder)
    modules = (name.removesuffix(".scales") for name in file.arrays if name.endswith(".scales"))
    bits = min((file.bits(module) for module in modules), default=0)
    return "onnx_int4" if bits == 4 else "onnx_int8" if bits else "onnx"


class Fault(NamedTuple):
    """A way in which the served model is not the trained one."""

    name: str
    """Its name, the same for every model: `doubled_bos`."""
    sentence: str
    """What is wrong, where, and what to do, for people."""
