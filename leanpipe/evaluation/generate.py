"""Short generations: what a person reads to see whether a model speaks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leanpipe.evaluation.usage.sampling import GREEDY, Sampling
from leanpipe.models.load import document_separator, document_start
from leanpipe.models.offload import input_device
from leanpipe.tokens.text_tokens import encode_question, encode_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOGETHER = 8
"""Prompts that are answered at once: writing waits for the weights, which serve all of them. As many as our server takes."""
SEED = 0
"""Of what is drawn: the same model draws the same answers."""


@dataclass(frozen=True)
class Generation:
    """An answer, special tokens taken out."""

    prompt: str
    text: str
    tokens: int
    """How many tokens were generated, the one that ended it included."""
    stopped: bool
    """Whether the model ended by itself, rather than at the limit."""
    sampling: str = GREEDY
    """The name of the way in which its tokens were chosen."""


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int,
    samplings: Sequence[Sampling] = (Sampling(GREEDY),),
) -> list[Generation]:
    """Answer each prompt in each of these ways, with at most `max_new_tokens` tokens."""
    size = TOGETHER if _reads_padding(model) else 1
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    return [
        one
        for how in samplings
        for batch in batches
        for one in _generate(model, tokenizer, batch, max_new_tokens, how)
    ]


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> "torch.Tensor":
    """Token ids [1, T]: the prompt as a user's turn if the tokenizer has a chat template, else as a text's beginning."""
    import torch

    if tokenizer.chat_template:
        tokens = encode_question(tokenizer, prompt)
    else:
        tokens = [document_start(tokenizer), *encode_text(tokenizer, prompt)]
    return torch.tensor([tokens])


def _reads_padding(model: "PreTrainedModel") -> bool:
    """Whether prompts of several lengths can be read at once: not by what carries a state past padding, or our own attention."""
    from leanpipe.models.attention.sparse_attention import attention_implementation

    return not getattr(model, "_is_stateful", False) and attention_implementation(model.config) is None


def _generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int,
    how: Sampling,
) -> Iterator[Generation]:
    import torch
    from transformers import GenerationConfig

    ends = sorted({document_separator(tokenizer), tokenizer.eos_token_id} - {None})
    drawn = {"do_sample": True, **how.numbers()} if how.drawn else {"do_sample": False}
    settings = GenerationConfig(
        **drawn, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[0]
    )
    tokens, mask = _padded([encode_prompt(tokenizer, prompt)[0] for prompt in prompts], ends[0])
    inputs = tokens.to(input_device(model))
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(SEED)
        output: Any = model.generate(  # type: ignore[operator]
            inputs, attention_mask=mask.to(inputs.device), generation_config=settings
        )
    for prompt, new in zip(prompts, output[:, inputs.shape[1] :].tolist(), strict=True):
        ended = next((place for place, token in enumerate(new) if token in ends), None)
        said = new if ended is None else new[: ended + 1]
        text = str(tokenizer.decode(said, skip_special_tokens=True))
        yield Generation(prompt, text, len(said), ended is not None, how.name)


def _padded(prompts: "Sequence[torch.Tensor]", padding: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Prompts as one batch [B, T], padded on the left so that all go on from their ends, and the mask of what is no padding."""
    import torch

    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), padding)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return tokens, mask
