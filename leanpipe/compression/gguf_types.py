"""GGUF's types of weights: how each is computed, and what stands in where a matrix's rows do not fit."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from leanpipe.compression import k_blocks, q_blocks

if TYPE_CHECKING:
    import numpy as np
    import torch

GgufType = Literal["q8_0", "q6_k", "q5_1", "q5_k", "q5_0", "q4_1", "q4_k", "iq4_nl", "q4_0"]
"""From the one that loses least to the one that loses most."""
EmbeddingsType = Literal["auto", GgufType]
FOUR_BITS: tuple[str, ...] = ("q4_1", "q4_k", "iq4_nl", "q4_0")
WHOLE = "bf16"
"""What a weight is stored as whose rows fit no type."""

IN_ITS_PLACE: Mapping[str, str] = {"q6_k": "q8_0", "q5_k": "q5_0", "q4_k": "iq4_nl"}
"""What is stored for rows that are no multiple of 256: Q5_0 and IQ4_NL are exactly as large as the types they stand in for,
and for Q6_K, which is chosen to lose nothing, the next that loses no more."""

_CHUNK = 1 << 17
"""Weights that are computed at once: so few that they stay in a core's cache."""

_QUANTIZERS: Mapping[str, Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]] = {
    "q8_0": q_blocks.quantize_q8_0,
    "q6_k": k_blocks.quantize_q6_k,
    "q5_1": q_blocks.quantize_q5_1,
    "q5_k": k_blocks.quantize_q5_k,
    "q5_0": q_blocks.quantize_q5_0,
    "q4_1": q_blocks.quantize_q4_1,
    "q4_k": k_blocks.quantize_q4_k,
    "iq4_nl": q_blocks.quantize_iq4_nl,
    "q4_0": q_blocks.quantize_q4_0,
}


def sizes_of(kind: str) -> tuple[int, int]:
    """How many weights of a row share a block of a type, and the bytes of the block."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]


def stored_type(asked: str, row: int) -> str:
    """Return the type that weights with rows of this length are stored in where `asked` is wanted."""
    for kind in (asked, IN_ITS_PLACE.get(asked, WHOLE)):
        if row % sizes_of(kind)[0] == 0:
            return kind
    return WHOLE


def bytes_of_weights(
    values: "torch.Tensor", kind: str, importance: "torch.Tensor | None" = None
) -> "np.ndarray":
    """Return the bytes of weights [..., inputs] in float32, as a GGUF file holds them in a type.

    `importance` [inputs] is the mean square of what each input is multiplied with; without it, all inputs count the same.
    """
    import gguf
    import torch

    if kind not in _QUANTIZERS:
        return gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType[kind.upper()])
    block, size = sizes_of(kind)
    width = values.shape[-1]
    rows = values.reshape(-1, width)
    done = []
    for part in rows.split(max(1, _CHUNK // width)):
        weight = error_weights(part, importance)
        done.append(_QUANTIZERS[kind](part.reshape(-1, block), weight.reshape(-1, block)))
    return torch.cat(done).view(rows.shape[0], width // block * size).numpy()


def rounded_weights(
    values: "torch.Tensor", kind: str, importance: "torch.Tensor | None" = None
) -> "torch.Tensor":
    """Return the weights as they are read back from a GGUF file, in float32."""
    import gguf
    import torch

    data = bytes_of_weights(values, kind, importance)
    read = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind.upper()])
    return torch.from_numpy(read).view(values.shape)


def error_weights(rows: "torch.Tensor", importance: "torch.Tensor | None" = None) -> "torch.Tensor":
    """How much the error of each weight of rows [outputs, inputs] counts: more for large ones, by which a layer does most.

    That is llama.cpp's rule. `importance` is as in `bytes_of_weights`.
    """
    size = (rows.square() + rows.square().mean(-1, keepdim=True)).sqrt()
    if importance is None:
        return size
    return size * (importance / importance.mean().clamp_min(1e-30)).clamp_min(1e-6)
