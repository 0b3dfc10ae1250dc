"""Derive a model's sizes from its depth: one dial sets every other size of a training from scratch.

The rules are nanochat's (github.com/karpathy/nanochat, scripts/base_train.py), with constants for AdamW in the place of
those for Muon:

- width 64 per layer, heads of 64, as many KV heads as heads;
- 20 tokens for each parameter that multiplies (Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models",
  arXiv 2203.15556, table 3): the output layer is counted, an input embedding of its own is not;
- batch proportional to tokens^0.383 (Bergsma et al. 2025, "Power Lines", arXiv 2505.13738), 2^19 tokens for the 1.32e9
  tokens that nanochat gives 12 layers;
- learning rate inversely proportional to the width (Yang et al. 2022, "Tensor Programs V", arXiv 2203.03466) and
  proportional to the root of the batch, 6e-4 for a width of 768 and 2^19 tokens (Brown et al. 2020, arXiv 2005.14165,
  table 2.1).
"""

import math
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError
from leanpipe.models.build import Shape, decoder_config

if TYPE_CHECKING:
    from leanpipe.training.pretrain.pretrain import PretrainConfig

_WIDTH_PER_LAYER = 64
_HEAD = 64
_REFERENCE_TOKENS, _REFERENCE_BATCH, _BATCH_EXPONENT = 1.32e9, 2**19, 0.383
_REFERENCE_WIDTH, _REFERENCE_RATE = 768, 6e-4


def shape_of(config: "PretrainConfig", block: int) -> Shape:
    """Return the decoder's sizes: those that are given, and for those that are 0 what follows from the depth.

    Raises UserError for sizes that no decoder can have.
    """
    width = config.width or _WIDTH_PER_LAYER * config.depth
    heads = config.heads or _most_heads(width)
    kv_heads = config.kv_heads or heads
    if width % heads or width // heads % 2:
        raise UserError(
            f"pretrain.width ({width}) must be an even multiple of pretrain.heads ({heads}), such as {64 * heads}"
        )
    if heads % kv_heads:
        raise UserError(f"pretrain.heads ({heads}) must be a multiple of pretrain.kv_heads ({kv_heads})")
    if config.architecture == "gpt2" and kv_heads != heads:
        raise UserError(
            "a gpt2 has as many KV heads as heads: set pretrain.kv_heads=0, or architecture=llama"
        )
    mlp_width = config.mlp_width or (4 * width if config.architecture == "gpt2" else _swiglu(width))
    return Shape(config.depth, width, heads, kv_heads, mlp_width, block, config.tied_embeddings)


def derive(config: "PretrainConfig", vocabulary: int, block: int) -> "PretrainConfig":
    """Fill in a value for every 0 of `config`, for text in blocks of `block` tokens."""
    shape = shape_of(config, block)
    tokens = config.tokens or round(
        config.tokens_per_parameter * scaled_parameters(config, vocabulary, block)
    )
    ideal = _REFERENCE_BATCH * (tokens / _REFERENCE_TOKENS) ** _BATCH_EXPONENT / block
    batch = config.batch or _whole(ideal, config.processes)
    # A batch that was not chosen is rounded for convenience only: the rate follows what it would have been.
    batch_tokens = block * (config.batch or ideal)
    rate = _REFERENCE_RATE * _REFERENCE_WIDTH / shape.width * math.sqrt(batch_tokens / _REFERENCE_BATCH)
    return config.model_copy(
        update={
            "width": shape.width,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "mlp_width": shape.mlp_width,
            "tokens": tokens,
            "batch": batch,
            "learning_rate": config.learning_rate or min(1.0, rate),
        }
    )


def scaled_parameters(config: "PretrainConfig", vocabulary: int, block: int) -> int:
    """Count the parameters that every token is multiplied with: all but an input embedding that is not the output layer too."""
    from leanpipe.models.count import count_parameters, empty_model

    model: Any = empty_model(
        decoder_config(config.architecture, shape_of(config, block), config.attention, vocabulary)
    )
    tied = model.config.tie_word_embeddings
    return count_parameters(model) - (0 if tied else model.get_input_embeddings().weight.numel())


def _most_heads(width: int) -> int:
    """The largest number of heads of at least 64 that divides the width evenly."""
    return next((heads for heads in range(width // _HEAD, 1, -1) if width % (2 * heads) == 0), 1)


def _swiglu(width: int) -> int:
    """8/3 of the width, so that three matrices are as large as GPT-2's two (Shazeer 2020, arXiv 2002.05202), in 64s."""
    return math.ceil(8 * width / 3 / 64) * 64


def _whole(blocks: float, processes: int) -> int:
    """The nearest power of two, made a multiple of the processes. What fits into memory does not weigh in: it changes no result."""
    batch = 2 ** max(0, round(math.log2(blocks)))
    return math.ceil(batch / processes) * processes
