"""The settings of stage `quantize`."""

from typing import Literal

from pydantic import Field

from leanpipe.compression.budget.choose import Budget
from leanpipe.compression.formats import Format
from leanpipe.compression.gguf_types import EmbeddingsType
from leanpipe.core.config import StageConfig

BYTES_A_WEIGHT = {
    "int8": 1,
    "nf4": 0.6,
    "torchao_int8": 1.02,
    "auto_round_int4": 0.63,
    "w8a16": 1.02,
    "w4a16": 0.54,
    "q8_0": 1.07,
    "q6_k": 0.95,
    "q5_1": 0.76,
    "q5_k": 0.7,
    "q5_0": 0.7,
    "q4_1": 0.64,
    "q4_k": 0.58,
    "iq4_nl": 0.58,
    "q4_0": 0.58,
    "onnx": 4,
    "onnx_int8": 1.13,
    "onnx_int4": 0.63,
    "mixed": 0.95,
}
"""Bytes of a weight of the layers on disk, about."""


class QuantizeConfig(StageConfig):
    """Which quantised models to make of a model, and what to leave in full precision."""

    formats: tuple[Format, ...] = Field((), max_length=len(BYTES_A_WEIGHT))
    """The models to make: q8_0 to q4_0 are GGUF, which llama.cpp runs; int8 and nf4 are bitsandbytes', which QLoRA and GPUs
    want; torchao_int8 and auto_round_int4 are for transformers too (extras torchao, autoround); w8a16 and w4a16 are for vLLM
    (extra compressed-tensors); the three of ONNX are for onnxruntime (extra onnx). By default q8_0 and q4_0 on a processor, int8 and nf4 on a GPU: in 8 bits almost nothing is
    lost, in 4 some."""

    calibration_tokens: int = Field(4_096, ge=0, le=10_000_000)
    """GGUF, auto_round_int4 and w4a16: tokens of the training text on which it is measured which weights matter most, so that
    these are rounded best. For all but auto_round_int4 0 leaves that out, and so does a run without text."""

    embeddings: EmbeddingsType = "auto"
    """GGUF alone: what embeddings and output layer become, which are up to a third of a small model: by default q5_0 in the
    formats of 4 bits, and q8_0 in the others."""

    double_quantization: bool = True
    """nf4 alone: quantise its scales too, which saves about 0.4 bits per weight at no loss that can be measured."""

    outlier_threshold: float = Field(6.0, ge=0.0, le=100.0)
    """int8 alone: activations larger than this are multiplied in full precision; 0 quantises all of them."""

    group_size: Literal[32, 64, 128] = 64
    """auto_round_int4 and w4a16: weights of a row that share a scale. Layers whose rows are no multiple of it stay in full
    precision. Marlin, the fastest kernels on a GPU, want 128."""

    rounding_steps: int = Field(50, ge=1, le=10_000)
    """auto_round_int4 alone: steps in which each layer learns how to round; its authors take 200."""

    max_mb: float = Field(0.0, ge=0.0, le=1e9)
    """Bound for the format `mixed`, whose weights each get the type by which the file loses least: its size; 0 for none."""

    max_loss: float = Field(0.0, ge=0.0, le=100.0)
    """Bound for `mixed`: how far its predictions may be from the full model's, as the mean KL divergence in nats per token
    on the training text; 0 for none. With this alone, or with speed, the smallest file is made."""

    min_tokens_per_second: float = Field(0.0, ge=0.0, le=1e6)
    """Bound for `mixed`: how fast it writes on this machine, which is measured once for a model's shape; 0 for none."""

    keep: tuple[str, ...] = Field((), max_length=1000)
    """Modules to leave in full precision, by name or by the end or start of it: `down_proj`, `model.layers.0`. The
    output layer always stays with bitsandbytes, and is as `embeddings` says in GGUF."""


def budget_of(config: QuantizeConfig) -> Budget:
    """The bounds of the format `mixed`."""
    return Budget(config.max_mb, config.max_loss, config.min_tokens_per_second)


def without_budget(config: QuantizeConfig) -> QuantizeConfig:
    """The settings for formats that have no bounds."""
    return config.model_copy(update={"max_mb": 0.0, "max_loss": 0.0, "min_tokens_per_second": 0.0})
