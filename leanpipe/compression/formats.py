"""The formats that a model can be quantised or exported to, and which of them this device runs best.

On a processor llama.cpp runs GGUF files several times faster than transformers runs anything; bitsandbytes is there a way to
store a model. On CUDA bitsandbytes' kernels are fast, and llama.cpp as it is installed here knows no GPU.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from leanpipe.compression.gguf_export import check_gguf
from leanpipe.compression.gguf_types import GgufType
from leanpipe.compression.quantize_transformers import COMPRESSED, WEIGHT_ONLY, Compressed, WeightOnly
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.export.onnx_export import OnnxFormat

if TYPE_CHECKING:
    from transformers import PretrainedConfig

log = logging.getLogger(__name__)

BitsAndBytes = Literal["int8", "nf4"]
MIXED: Literal["mixed"] = "mixed"
"""A GGUF file whose weights have each the type that keeps within bounds of size, loss and speed."""
Format = Literal[
    "int8",
    "nf4",
    "torchao_int8",
    "auto_round_int4",
    "w8a16",
    "w4a16",
    "q8_0",
    "q6_k",
    "q5_1",
    "q5_k",
    "q5_0",
    "q4_1",
    "q4_k",
    "iq4_nl",
    "q4_0",
    "mixed",
    "onnx",
    "onnx_int8",
    "onnx_int4",
]

BITSANDBYTES: tuple[BitsAndBytes, ...] = get_args(BitsAndBytes)
TRANSFORMERS: tuple[BitsAndBytes | WeightOnly | Compressed, ...] = (*BITSANDBYTES, *WEIGHT_ONLY, *COMPRESSED)
GGUF: tuple[Format, ...] = (*get_args(GgufType), MIXED)
ONNX: tuple[OnnxFormat, ...] = get_args(OnnxFormat)

_BEST: dict[Kind, tuple[Format, ...]] = {"cpu": ("q8_0", "q4_0"), "cuda": ("int8", "nf4")}
_TRAINED_FOR_GGUF = ("teacher", "bpe")
"""Kinds of tokenizers, as `tokenize.tokenizer` names them, that llama.cpp has the like of."""


def chosen_formats(
    asked: Sequence[Format], kind: Kind, config: "PretrainedConfig", tokenizer: Path | None = None
) -> tuple[Format, ...]:
    """Return the formats that were asked for, each once; if none was, those that are best for the device and the model."""
    if asked:
        return tuple(dict.fromkeys(asked))
    best = _BEST[kind]
    if any(form in GGUF for form in best):
        try:
            check_gguf(config, _loaded(tokenizer))
        except UserError as error:
            log.info("Formats of bitsandbytes are taken: %s", error)
            return BITSANDBYTES
    return best


def has_gguf_tokenizer(kind: str) -> bool:
    """Whether a tokenizer of this kind, by the name that `tokenize.tokenizer` has for it, can be written as GGUF."""
    return kind in _TRAINED_FOR_GGUF


def _loaded(tokenizer: Path | None):
    from leanpipe.models.load import load_tokenizer

    return load_tokenizer(tokenizer) if tokenizer else None
