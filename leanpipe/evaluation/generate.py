"""Short greedy generations: what a person reads to see whether a model speaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leanpipe.models.load import document_separator, document_start
from leanpipe.models.offload import input_device
from leanpipe.tokens.text_tokens import encode_question, encode_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generation:
    """An answer, special tokens taken out."""

    prompt: str
    text: str
    tokens: int
    """How many tokens were generated, the one that ended it included."""
    stopped: bool
    """Whether the model ended by itself, rather than at the limit."""


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int,
) -> list[Generation]:
    """Answer each prompt greedily, with at most `max_new_tokens` tokens."""
    return [_generate(model, tokenizer, prompt, max_new_tokens) for prompt in prompts]


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> "torch.Tensor":
    """Token ids [1, T]: the prompt as a user's turn if the tokenizer has a chat template, else as a text's beginning."""
    import torch

    if tokenizer.chat_template:
        tokens = encode_question(tokenizer, prompt)
    else:
        tokens = [document_start(tokenizer), *encode_text(tokenizer, prompt)]
    return torch.tensor([tokens])


def _generate(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, max_new_tokens: int
) -> Generation:
    import torch
    from transformers import GenerationConfig

    inputs = encode_prompt(tokenizer, prompt).to(input_device(model))
    ends = sorted({document_separator(tokenizer), tokenizer.eos_token_id} - {None})
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[0]
    )
    with torch.inference_mode():
        output: Any = model.generate(  # type: ignore[operator]
            inputs, attention_mask=torch.ones_like(inputs), generation_config=settings
        )
    new = output[0, inputs.shape[1] :].tolist()
    return Generation(prompt, str(tokenizer.decode(new, skip_special_tokens=True)), len(new), new[-1] in ends)
