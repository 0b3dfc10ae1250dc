"""How fast a model reads and writes, one request at a time, on this machine.

Reading a prompt (prefill) is limited by arithmetic, writing (decode) by how fast the weights come from memory, so the two
are measured apart. Each figure is the median of several repeats after one that does not count.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from leanpipe.core import device
from leanpipe.evaluation.generate import encode_prompt
from leanpipe.models.offload import input_device

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Speed:
    """Seconds of every repeat that counts, and the tokens that each took them for."""

    prefill_seconds: list[float]
    prefill_tokens: int
    decode_seconds: list[float]
    decode_tokens: int
    first_token_seconds: list[float]

    @property
    def prefill_tokens_per_second(self) -> float:
        return self.prefill_tokens / statistics.median(self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        return self.decode_tokens / statistics.median(self.decode_seconds)

    @property
    def first_token(self) -> float:
        """Seconds from a prompt as text to its first token of answer."""
        return statistics.median(self.first_token_seconds)


def measure_speed(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    text_tokens: list[int],
    decode_tokens: int,
    repeats: int,
) -> Speed:
    """Read `text_tokens` and go on for `decode_tokens` tokens, greedily with a key-value cache, whatever they are."""
    tokens = _tensor(text_tokens, model)
    prefill, decode, first = [], [], []
    for _ in range(repeats + 1):
        seconds, (cache, token) = _timed(partial(_read, model, tokens, None))
        prefill.append(seconds)
        decode.append(_timed(partial(_write, model, cache, token, decode_tokens))[0])
        first.append(_timed(partial(_first_token, model, tokenizer, prompt))[0])
    return Speed(prefill[1:], len(text_tokens), decode[1:], decode_tokens, first[1:])


def _first_token(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str:
    _, token = _read(model, encode_prompt(tokenizer, prompt).to(input_device(model)), None)
    return str(tokenizer.decode(token[0]))


def _write(model: "PreTrainedModel", cache, token: "torch.Tensor", count: int) -> None:
    for _ in range(count):
        cache, token = _read(model, token, cache)


def _read(model: "PreTrainedModel", tokens: "torch.Tensor", cache):
    """Read tokens [1, T]; returns the cache and the likeliest next token [1, 1]."""
    import torch

    with torch.inference_mode():
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.past_key_values, output.logits[:, -1:].argmax(-1)


def _timed(work: Callable):
    """Seconds that `work` took, its kernels on the GPU included, and what it returned."""
    _synchronize()
    started = time.perf_counter()
    result = work()
    _synchronize()
    return time.perf_counter() - started, result


def _synchronize() -> None:
    if device.name() == "cuda":
        import torch

        torch.cuda.synchronize()


def _tensor(tokens: list[int], model: "PreTrainedModel") -> "torch.Tensor":
    import torch

    return torch.tensor([tokens], device=input_device(model))
