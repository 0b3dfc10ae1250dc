"""New decoders as standard transformers classes, so that every engine loads them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from leanpipe.models.attention.attention_patterns import KEY, AttentionConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Architecture = Literal["llama", "gpt2"]


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    context: int
    """The longest text, in tokens, that it is made for."""
    tied: bool
    """Whether the output layer is the input embedding."""


def decoder_config(
    architecture: Architecture,
    shape: Shape,
    attention: AttentionConfig,
    vocabulary: int,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> "PretrainedConfig":
    """Return transformers' config for a decoder of this shape. A sliding window over a Llama is what it calls a Mistral."""
    special: dict[str, Any] = {
        name: getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = (_gpt2 if architecture == "gpt2" else _llama)(shape, attention, vocabulary, special)
    if attention.pattern != "full":
        setattr(config, KEY, attention.model_dump(mode="json"))
    return config


def random_decoder(config: "PretrainedConfig", seed: int) -> "PreTrainedModel":
    """Make a model with new weights, in float32, that computes the attention pattern its config names."""
    import torch
    from transformers import AutoModelForCausalLM

    from leanpipe.models.attention.sparse_attention import attention_implementation

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention_implementation(config)
    )


def _llama(
    shape: Shape, attention: AttentionConfig, vocabulary: int, special: dict[str, Any]
) -> "PretrainedConfig":
    from transformers import LlamaConfig, MistralConfig

    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.width // shape.heads,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": shape.tied,
        **special,
    }
    if attention.pattern == "sliding_window":
        return MistralConfig(sliding_window=attention.window, **sizes)
    return LlamaConfig(**sizes)


def _gpt2(
    shape: Shape, attention: AttentionConfig, vocabulary: int, special: dict[str, Any]
) -> "PretrainedConfig":
    """GPT-2 (Radford et al. 2019) without dropout, which one pass over much text does not need."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=vocabulary,
        n_embd=shape.width,
        n_inner=shape.mlp_width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_positions=shape.context,
        tie_word_embeddings=shape.tied,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **special,
    )
