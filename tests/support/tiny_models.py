"""Real models and text small enough for a test: made on the spot, in seconds, the same every time."""

import functools
import pydoc_data.topics
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SEPARATOR, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def tiny_text() -> list[str]:
    """Real English prose that every Python carries: its help topics, in the order of their names."""
    topics = pydoc_data.topics.topics
    return [topics[name] for name in sorted(topics)]


@functools.cache
def tiny_tokenizer(vocabulary: int = 512) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer with a ChatML template; token 0 is `<|endoftext|>`. Do not change what it returns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(tiny_text(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=TURN_START,
        eos_token=TURN_END,
        pad_token=TURN_END,
        unk_token=SEPARATOR,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_llama(
    layers: int = 2, seed: int = 0, vocabulary: int = 512, tied: bool = True
) -> "LlamaForCausalLM":
    """A Llama of width 64 with random weights and tied embeddings, in float32. Leaves torch's own seed alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def tiny_model(path: Path, layers: int = 2, seed: int = 0, tied: bool = True) -> Path:
    """Write a whole model folder (float32 weights, tokenizer, chat template) to `path` and return `path`."""
    import torch

    from leanpipe.models.load import save_model

    save_model(tiny_llama(layers, seed, tied=tied), tiny_tokenizer(), path, dtype=torch.float32)
    return path


def student_from_teacher(teacher: "PreTrainedModel", kept: list[int]) -> "PreTrainedModel":
    """A student of the teacher's layers `kept`, as wide as it is."""
    from leanpipe.models.student import layer_list_name
    from leanpipe.shrink.narrow import cut_model, widths_of

    return cut_model(teacher, layer_list_name(teacher), kept, widths_of(teacher.config), None).model
