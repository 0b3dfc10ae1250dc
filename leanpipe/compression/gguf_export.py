"""Write a model folder as one GGUF file for llama.cpp, and say exactly what will be stored before anything is computed.

GGUF's types work in blocks: 32 numbers of a row share their scales (Q8_0, Q5_0, Q4_0 and their like). A weight whose rows
are no multiple of that stays in bfloat16. So what a file holds follows from the shapes, and its size can be told exactly.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from leanpipe.compression.gguf_architectures import (
    FAMILIES,
    Tensor,
    check_architecture,
    tensors_of,
    write_shape,
)
from leanpipe.compression.gguf_tokenizer import check_gguf_tokenizer, write_tokenizer
from leanpipe.core.files import written_whole

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

GgufType = Literal["q8_0", "q5_0", "q4_0"]
"""Types that can be computed without calibration, from the one that loses least to the one that loses most.

Q4_1, which also stores a block's least value, is left out, and Q5_1 with it: its weights are nearer, but the default run's
student lost more with it than with Q4_0, which is smaller and runs faster (benchmarks/LOG.md)."""
_VOCABULARY = ("token_embd.weight", "output.weight")
_ALWAYS_WHOLE = ("position_embd.weight",)
_WHOLE = "bf16"


@dataclass(frozen=True)
class Stored:
    """A weight in a GGUF file: its name, shape and type there, and its bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    module: str
    """The module of the transformers model that it belongs to."""
    asked: bool
    """Whether it has the type that was asked for, rather than another because its rows do not fit."""


@dataclass(frozen=True)
class GgufPlan:
    """What a GGUF file will hold, and how large it will be."""

    tensors: tuple[Stored, ...]
    bytes: int
    """Of the whole file."""

    @property
    def types(self) -> dict[str, int]:
        """Bytes by stored type."""
        found: dict[str, int] = {}
        for one in self.tensors:
            found[one.type] = found.get(one.type, 0) + one.bytes
        return found

    @property
    def unfit(self) -> list[str]:
        """Names of the weights whose rows do not fit the type that was asked for."""
        return [one.name for one in self.tensors if not one.asked]

    @property
    def unfit_modules(self) -> list[str]:
        """Names of the modules that these weights belong to."""
        return [one.module for one in self.tensors if not one.asked]

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each number that it holds."""
        count = sum(_count(one.shape) for one in self.tensors)
        return 8 * self.bytes / count


@dataclass(frozen=True)
class GgufTypes:
    """The types that are asked for: of the layers, of the embeddings and output layer, and which modules stay whole."""

    layers: GgufType
    embeddings: GgufType
    whole: frozenset[str] = frozenset()


def check_gguf(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase | None" = None) -> None:
    """Raise UserError for a model or a tokenizer that GGUF cannot hold."""
    check_architecture(config)
    if tokenizer is not None:
        check_gguf_tokenizer(tokenizer)


def plan_gguf(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", types: GgufTypes) -> GgufPlan:
    """Say what `write_gguf` would store of a model, which may be empty (on the meta device). Exact to the byte."""
    tensors = tuple(tensors_of(model))
    stored = [_stored(one, types) for one in tensors]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        writer = _header(model.config, tokenizer, stored, types)
        _open(writer, path)
        writer.close()
        header = path.stat().st_size
    sizes = (_padded(one.bytes, writer) for one in stored)
    return GgufPlan(tuple(stored), _padded(header, writer) + sum(sizes))


def write_gguf(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    types: GgufTypes,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GgufPlan:
    """Write the model to `path`, weight by weight, and return what is stored. A file that is not whole is never at `path`."""
    import gguf

    tensors = tuple(tensors_of(model))
    stored = [_stored(one, types) for one in tensors]
    with written_whole(path) as half:
        writer = _header(model.config, tokenizer, stored, types)
        _open(writer, half)
        for done, (tensor, one) in enumerate(zip(tensors, stored, strict=True)):
            progress(done, len(stored))
            writer.write_tensor_data(gguf.quants.quantize(tensor.read().numpy(), _type(one.type)))
        writer.close()
    progress(len(stored), len(stored))
    return GgufPlan(tuple(stored), path.stat().st_size)


def _stored(tensor: Tensor, types: GgufTypes) -> Stored:
    from gguf import GGML_QUANT_SIZES

    wanted = _wanted(tensor, types)
    block, size = GGML_QUANT_SIZES[_type(wanted)]
    fits = tensor.shape[-1] % block == 0
    if not fits:
        wanted = _WHOLE
        block, size = GGML_QUANT_SIZES[_type(wanted)]
    size = _count(tensor.shape) // block * size
    return Stored(tensor.name, tensor.shape, wanted, size, tensor.module, fits)


def _wanted(tensor: Tensor, types: GgufTypes) -> str:
    if len(tensor.shape) == 1 or tensor.name in _ALWAYS_WHOLE:
        return "f32"
    if tensor.name in _VOCABULARY:
        return types.embeddings
    return _WHOLE if tensor.module in types.whole else types.layers


def _header(
    config: "PretrainedConfig",
    tokenizer: "PreTrainedTokenizerBase",
    stored: Sequence[Stored],
    types: GgufTypes,
) -> "GGUFWriter":
    """A writer that knows everything but the weights' values."""
    import gguf
    import numpy as np

    check_gguf(config, tokenizer)
    writer = gguf.GGUFWriter(None, FAMILIES[config.model_type].architecture)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{types.layers.upper()}"])
    write_shape(writer, config)
    write_tokenizer(writer, tokenizer, config.vocab_size)
    for one in stored:
        writer.add_tensor_info(one.name, one.shape, np.float32, one.bytes, _type(one.type))
    return writer


def _open(writer: "GGUFWriter", path: Path) -> None:
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _padded(size: int, writer: "GGUFWriter") -> int:
    return writer.ggml_pad(size, writer.data_alignment)


def _type(name: str):
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[name.upper()]


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
