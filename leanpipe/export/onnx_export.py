"""Write a model folder whose weights are an ONNX file for onnxruntime, with its key-value cache; other files as they were.

`onnx` is float32. `onnx_int8` and `onnx_int4` hold the linear layers in blocks of 32 numbers that share a scale, and the
embeddings in 8 bits; activations stay in float32 (accuracy_level 1). Weights lie in `model.onnx.data` beside the graph.
"""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from leanpipe.core.errors import UserError
from leanpipe.core.files import written_whole
from leanpipe.export.onnx_blocks import Bits, fits, quantize_blocks
from leanpipe.export.onnx_graph import (
    EMBEDDING,
    HEAD,
    GraphBuilder,
    Weight,
    check_onnx_architecture,
    positions,
)
from leanpipe.export.provenance import provenance
from leanpipe.models.offload import ONNX_DATA, ONNX_FILE

if TYPE_CHECKING:
    import numpy as np
    import torch
    from onnx import TensorProto
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

OnnxFormat = Literal["onnx", "onnx_int8", "onnx_int4"]
BITS: dict[OnnxFormat, int] = {"onnx": 0, "onnx_int8": 8, "onnx_int4": 4}
_VOCABULARY_BITS = 8
_ALIGNMENT = 64
"""Where a tensor may begin in the file of weights: mapped, it can be used where it lies."""


class Array(NamedTuple):
    """An initializer of the graph: its name, and its values as they are stored."""

    name: str
    values: "np.ndarray"
    shape: tuple[int, ...]
    shared: str = ""
    """The one whose bytes these are."""


@dataclass(frozen=True)
class OnnxTypes:
    """What is asked for: the format, and which modules stay in float32."""

    form: OnnxFormat
    whole: frozenset[str] = frozenset()


def check_onnx(config: "PretrainedConfig") -> None:
    """Raise UserError for a model that ONNX cannot hold here, or if the package that writes it is missing."""
    if importlib.util.find_spec("onnx") is None:
        raise UserError(
            "ONNX files are written by the package onnx, which is not installed: install it with pip install "
            "'leanpipe[onnx]', or take the onnx formats out of quantize.formats"
        )
    check_onnx_architecture(config)


def weights_of_graph(model: "PreTrainedModel", types: OnnxTypes) -> dict[str, Weight]:
    """Say of each matrix how it is stored, by its module. The model may be empty (on the meta device)."""
    found = {}
    for name, value in model.state_dict().items():
        module = name.removesuffix(".weight")
        if value.dim() != 2:
            continue
        rows, columns = value.shape
        bits = BITS[types.form]
        if bits and module in (EMBEDDING, HEAD):
            bits = _VOCABULARY_BITS
        if module in types.whole - {HEAD} or not fits(columns):
            bits = 0
        found[module] = Weight(bits, rows, columns)
    return found


def unfit_modules(model: "PreTrainedModel", types: OnnxTypes) -> list[str]:
    """Name the modules whose rows are no multiple of 32, and which stay in float32 for that."""
    weights = weights_of_graph(model, types)
    return [name for name, one in weights.items() if BITS[types.form] and not fits(one.columns)]


def write_onnx_folder(
    source: "PreTrainedModel", target: Path, types: OnnxTypes, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Write the model, its config and its tokenizer to `target`. What is not whole does not look like a model."""
    check_onnx(source.config)
    target.mkdir(parents=True, exist_ok=True)
    weights = weights_of_graph(source, types)
    graph = GraphBuilder(source.config, weights, biases_of(source)).model()
    graph.graph.initializer.extend(_constants())
    with written_whole(target / ONNX_DATA) as data:
        graph.graph.initializer.extend(_stored(_arrays(source, weights), data))
    known = provenance(Path(source.name_or_path)) | {"leanpipe.format": types.form}
    for name, value in known.items():
        graph.metadata_props.add(key=name, value=value)
    with written_whole(target / ONNX_FILE) as file:
        file.write_bytes(graph.SerializeToString())
    tokenizer.save_pretrained(target)
    if source.generation_config is not None:
        source.generation_config.save_pretrained(target)
    source.config.save_pretrained(target)
    # What it can read is what the file has rotations for.
    config = json.loads((target / "config.json").read_text())
    if config.get("max_position_embeddings", 0) > positions(source.config):
        config["max_position_embeddings"] = positions(source.config)
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _constants() -> "Iterator[TensorProto]":
    """Numbers that say what the graph computes, and so lie in it."""
    import numpy as np
    from onnx import numpy_helper

    yield numpy_helper.from_array(np.array([1], dtype=np.int64), "constant.one")
    yield numpy_helper.from_array(np.array(1, dtype=np.int64), "constant.second")


def biases_of(model: "PreTrainedModel") -> set[str]:
    """Name the modules that add a bias."""
    return {name.removesuffix(".bias") for name in model.state_dict() if name.endswith(".bias")}


def _arrays(model: "PreTrainedModel", weights: dict[str, Weight]) -> Iterator[Array]:
    """Everything that the graph reads, as it is stored; the head shares the embeddings' bytes if it shared their weights."""
    cosines, sines = rotations(model)
    yield Array("cos", cosines, cosines.shape)
    yield Array("sin", sines, sines.shape)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, value in model.state_dict().items():
        module = name.rpartition(".")[0]
        if name.endswith(".bias") or value.dim() == 1:
            yield Array(name, _numbers(value), tuple(value.shape))
        elif value.dim() == 2:
            yield from _matrix(
                module, value, weights[module], EMBEDDING if tied and module == HEAD else module
            )


def _matrix(module: str, value: "torch.Tensor", weight: Weight, stored_as: str) -> Iterator[Array]:
    """One matrix under the names that its operators read; `stored_as` is the module whose bytes it has."""
    rows, columns = value.shape
    shared = stored_as if stored_as != module else ""
    if not weight.bits:
        yield Array(f"{module}.weight", _numbers(value), (rows, columns), shared and f"{shared}.weight")
        return
    blocks = quantize_blocks(_numbers(value), cast(Bits, weight.bits))
    name, shape = (f"{module}.blocks", blocks.data.shape)
    if module == EMBEDDING:
        name, shape = f"{module}.rows", (rows, columns * weight.bits // 8)
    yield Array(name, blocks.data, shape, shared and f"{shared}.rows")
    yield Array(f"{module}.scales", blocks.scales, blocks.scales.shape, shared and f"{shared}.scales")


def _numbers(value: "torch.Tensor") -> "np.ndarray":
    return value.detach().float().cpu().numpy()


def rotations(model: "PreTrainedModel") -> tuple["np.ndarray", "np.ndarray"]:
    """Cosines and sines [positions, half a head] as transformers itself computes them, stretched as the config says."""
    import torch

    count = positions(model.config)
    rotary = cast(Any, model.base_model).rotary_emb
    with torch.inference_mode():
        found = rotary(torch.zeros(1, 1, 1), torch.arange(count)[None])
    cosines, sines = (one[0, :, : one.shape[-1] // 2].float().numpy() for one in found)
    return cosines, sines


def _stored(arrays: Iterator[Array], path: Path) -> "Sequence[TensorProto]":
    """Write the values to `path`, each where it is aligned, and return what the graph must know of them."""
    import numpy as np
    from onnx import TensorProto, helper

    places: dict[str, tuple[int, int]] = {}
    found = []
    with path.open("wb") as file:
        for array in arrays:
            if array.shared not in places:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                values = np.ascontiguousarray(array.values)
                places[array.name] = file.tell(), values.nbytes
                file.write(values.data)
            offset, length = places[array.shared or array.name]
            tensor = TensorProto(name=array.name, dims=array.shape)
            tensor.data_type = helper.np_dtype_to_tensor_dtype(array.values.dtype)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", ONNX_DATA), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            found.append(tensor)
    return found
