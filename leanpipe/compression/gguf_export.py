"""Write a model folder as one GGUF file for llama.cpp, and say exactly what will be stored before anything is computed.

GGUF's types work in blocks: 32 numbers of a row share their scales (Q8_0, Q5_0, Q4_0 and their like), or 256 (the K-types).
A weight whose rows are no multiple of 256 gets a type of blocks of 32 in the place of a K-type, and one whose rows are no
multiple of 32 stays in bfloat16. So what a file holds follows from the shapes, and its size can be told exactly.
"""

import errno
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.compression.gguf_architectures import (
    FAMILIES,
    Tensor,
    check_architecture,
    tensors_of,
    write_shape,
)
from leanpipe.compression.gguf_tokenizer import check_gguf_tokenizer, write_tokenizer
from leanpipe.compression.gguf_types import WHOLE, bytes_of_weights, sizes_of, stored_type
from leanpipe.core.files import written_whole
from leanpipe.export.gguf_licence import write_gguf_licence
from leanpipe.export.provenance import SOURCE
from leanpipe.models.card import inherited

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gguf import GGUFWriter
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_VOCABULARY = ("token_embd.weight", "output.weight")
_ALWAYS_WHOLE = ("position_embd.weight",)
_LABELS = {"q4_k": "Q4_K_S", "q5_k": "Q5_K_S"}
"""What llama.cpp calls a file of these types; the others are called as they are."""

Importance = Mapping[str, "torch.Tensor"]
"""By module of the transformers model, the mean square of each of its inputs."""


@dataclass(frozen=True)
class Stored:
    """A weight in a GGUF file: its name, shape and type there, and its bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    module: str
    """The module of the transformers model that it belongs to."""
    asked: str
    """The type that was asked for; the other is stored where rows do not fit."""


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
    def replaced(self) -> dict[tuple[str, str], int]:
        """How many weights have another type than was asked for: by that type and the stored one."""
        return dict(Counter((one.asked, one.type) for one in self.tensors if one.type != one.asked))

    @property
    def unfit_modules(self) -> list[str]:
        """Names of the modules whose rows fit no type, so that they stay as they are."""
        return [one.module for one in self.tensors if one.type == WHOLE != one.asked]

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each number that it holds."""
        count = sum(_count(one.shape) for one in self.tensors)
        return 8 * self.bytes / count


@dataclass(frozen=True)
class GgufTypes:
    """The types that are asked for: of the layers, of the embeddings and output layer, and which modules stay whole."""

    layers: str
    embeddings: str
    whole: frozenset[str] = frozenset()
    chosen: Mapping[str, str] = field(default_factory=dict)
    """By module, the types that differ from these."""


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
    importance: Importance | None = None,
    made_of: str = "",
) -> GgufPlan:
    """Write the model to `path`, weight by weight, and return what is stored. A file that is not whole is never at `path`.

    The error of a weight counts as much as `importance` says of its input. `made_of` is the digest of the weights that the model
    was read from.
    """
    counts = importance or {}
    return write_tensors(
        model,
        tokenizer,
        types,
        path,
        lambda tensor, one: bytes_of_weights(tensor.read(), one.type, counts.get(one.module)),
        progress,
        made_of,
    )


def write_zeros(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", types: GgufTypes, path: Path
) -> GgufPlan:
    """Write a file as `write_gguf` would of an empty model: all weights are zero, which is as fast as any others."""
    import numpy as np

    return write_tensors(model, tokenizer, types, path, lambda _, one: np.zeros(one.bytes, np.uint8))


def write_tensors(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    types: GgufTypes,
    path: Path,
    data: "Callable[[Tensor, Stored], np.ndarray]",
    progress: Callable[[int, int], None] = lambda done, total: None,
    made_of: str = "",
) -> GgufPlan:
    """Write a file as `write_gguf` does, of bytes that `data` makes of each weight."""
    tensors = tuple(tensors_of(model))
    stored = [_stored(one, types) for one in tensors]
    with written_whole(path) as half:
        writer = _header(model.config, tokenizer, stored, types, made_of)
        _open(writer, half)
        for done, (tensor, one) in enumerate(zip(tensors, stored, strict=True)):
            progress(done, len(stored))
            try:
                writer.write_tensor_data(data(tensor, one))
            except OSError as error:
                if error.errno is None:  # numpy says how much it could not write, and not why
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
                raise
        writer.close()
    progress(len(stored), len(stored))
    return GgufPlan(tuple(stored), path.stat().st_size)


def _stored(tensor: Tensor, types: GgufTypes) -> Stored:
    wanted = _wanted(tensor, types)
    kind = stored_type(wanted, tensor.shape[-1])
    block, size = sizes_of(kind)
    return Stored(
        tensor.name, tensor.shape, kind, _count(tensor.shape) // block * size, tensor.module, wanted
    )


def _wanted(tensor: Tensor, types: GgufTypes) -> str:
    if len(tensor.shape) == 1 or tensor.name in _ALWAYS_WHOLE:
        return "f32"
    if tensor.module in types.chosen:
        return types.chosen[tensor.module]
    if tensor.name in _VOCABULARY:
        return types.embeddings
    return WHOLE if tensor.module in types.whole else types.layers


def _header(
    config: "PretrainedConfig",
    tokenizer: "PreTrainedTokenizerBase",
    stored: Sequence[Stored],
    types: GgufTypes,
    made_of: str = "",
) -> "GGUFWriter":
    """A writer that knows everything but the weights' values."""
    import gguf
    import numpy as np

    check_gguf(config, tokenizer)
    writer = gguf.GGUFWriter(None, FAMILIES[config.model_type].architecture)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{_LABELS.get(types.layers, types.layers.upper())}"])
    # As long whether it is known or not, so that a plan is exact.
    writer.add_string(SOURCE, made_of or "0" * 64)
    # A plan and a file are made with one tokenizer, that of the folder whose licence this is.
    write_gguf_licence(writer, inherited(Path(tokenizer.name_or_path)) if tokenizer.name_or_path else {})
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
