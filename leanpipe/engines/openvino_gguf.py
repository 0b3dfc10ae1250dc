"""Which GGUF files OpenVINO's own reader takes, and a file that it takes in the place of one that it does not.

It knows Llama and Qwen, and few types of weights. Q5_0 and IQ4_NL hold whole numbers of at most 8 bits times a scale for each 32,
so Q8_0 holds them exactly: what is read is then another file of the same model.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.engines.gguf_file import read_gguf
from leanpipe.models.count import read_config
from leanpipe.models.offload import GGUF_FILE

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader, ReaderTensor

_FAMILIES = ("llama", "qwen2", "qwen3")
"""By the `model_type` of transformers' configs."""
_READ = ("F32", "Q8_0", "Q6_K", "Q4_0")
"""Types that it multiplies with as they were written. It takes Q4_1 and Q4_K too, and rounds their least values to a whole number
of steps: the logits of a tiny model were then off by 30 % of their norm, instead of less than 3 (2026.4.1)."""
_IN_Q8_0 = {"Q5_0": 22, "IQ4_NL": 18}
"""Bytes of a block of 32 weights, of which the first two are their scale."""


def unreadable(folder: Path) -> str:
    """Say why OpenVINO cannot read the GGUF file in a model folder; empty if it can."""
    if (family := read_config(folder).model_type) not in _FAMILIES:
        return f"OpenVINO reads GGUF files of {', '.join(_FAMILIES)}, and this is a {family}"
    types = {tensor.tensor_type.name for tensor in read_gguf(folder).tensors}
    if others := sorted(types - set(_READ) - set(_IN_Q8_0)):
        return f"OpenVINO does not read weights in {', '.join(others)}"
    return ""


def write_readable(folder: Path, target: Path) -> None:
    """Write the GGUF file in a model folder to `target` as OpenVINO reads it, with the same weights to the bit."""
    reader = read_gguf(folder)
    if not any(tensor.tensor_type.name in _IN_Q8_0 for tensor in reader.tensors):
        target.symlink_to((folder / GGUF_FILE).resolve())
        return
    from gguf import GGUFWriter

    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    _copy_facts(reader, writer)
    for tensor in reader.tensors:
        data, kind = _readable(tensor)
        writer.add_tensor(tensor.name, data, raw_shape=data.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_facts(reader: "GGUFReader", writer: Any) -> None:
    from gguf import GGUFValueType

    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, inner)


def _readable(tensor: "ReaderTensor") -> "tuple[np.ndarray, Any]":
    from gguf import GGMLQuantizationType

    size = _IN_Q8_0.get(tensor.tensor_type.name)
    if size is None:
        return tensor.data, tensor.tensor_type
    rows = tensor.data.shape[0]
    return _as_q8_0(tensor, size).reshape(rows, -1), GGMLQuantizationType.Q8_0


def _as_q8_0(tensor: "ReaderTensor", size: int) -> "np.ndarray":
    """The blocks of Q8_0 [blocks, 34 bytes] with the same scales and numbers."""
    import numpy as np
    from gguf.quants import dequantize

    scales = tensor.data.reshape(-1, size)[:, :2]
    known = scales.copy().view(np.float16).astype(np.float32)
    values = dequantize(tensor.data, tensor.tensor_type).reshape(-1, 32)
    numbers = np.rint(values / np.where(known == 0, 1, known)).astype(np.int8)
    return np.concatenate([scales, numbers.view(np.uint8)], axis=1)
