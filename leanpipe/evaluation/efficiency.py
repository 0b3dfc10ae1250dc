"""How fast a model reads and writes on this machine: one request at a time, and several at once.

Reading a prompt (prefill) is limited by arithmetic, writing (decode) by how fast the weights come from memory, so the two
are measured apart. Each figure is the median of several repeats after one that does not count; what 95 of 100 are at least
as fast as stands beside it.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from leanpipe.core import device
from leanpipe.core.stage import Summary
from leanpipe.evaluation.generate import encode_prompt
from leanpipe.evaluation.usage.energy import joules_between, read_counters
from leanpipe.models.offload import input_device

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

READ_TOGETHER = 32
"""Tokens that each of several requests at once reads, before it writes."""


@dataclass(frozen=True)
class Speed:
    """Seconds of every repeat that counts, and the tokens that each took them for."""

    prefill_seconds: list[float]
    prefill_tokens: int
    decode_seconds: list[float]
    decode_tokens: int
    first_token_seconds: list[float]
    token_seconds: list[float]
    """From each token that was written to the next, in all repeats."""
    load_seconds: float
    """From the files to a model that is ready."""
    joules: float | None = None
    """What the device took while the tokens of `decode_seconds` were written; None where it does not say."""
    together: Mapping[int, float] = field(default_factory=dict)
    """By how many requests came at once, the tokens per second that all of them wrote, what they read first included."""

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

    def figures(self) -> Summary:
        """Return the headline figures, by the names by which all models compare."""
        found: Summary = {
            "prefill_tokens_per_second": self.prefill_tokens_per_second,
            "decode_tokens_per_second": self.decode_tokens_per_second,
            "first_token_seconds": self.first_token,
            "prefill_p95_tokens_per_second": self.prefill_tokens / _p95(self.prefill_seconds),
            "decode_p95_tokens_per_second": 1 / _p95(self.token_seconds),
            "first_token_p95_seconds": _p95(self.first_token_seconds),
            "load_seconds": self.load_seconds,
        }
        found |= {batch_figure(size): speed for size, speed in self.together.items()}
        if self.joules is not None:
            found["joules_per_token"] = self.joules / (self.decode_tokens * len(self.decode_seconds))
        return found


def batch_figure(size: int) -> str:
    """Name the figure of so many requests at once."""
    return f"batch_{size}_tokens_per_second"


def measure_speed(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    text_tokens: list[int],
    decode_tokens: int,
    repeats: int,
    load_seconds: float = 0.0,
) -> Speed:
    """Read `text_tokens` and go on for `decode_tokens` tokens, greedily with a key-value cache, whatever they are."""
    tokens, on_gpu = _tensor([text_tokens], model), device.name() == "cuda"
    prefill, decode, first, joules = [], [], [], []
    for _ in range(repeats + 1):
        seconds, (cache, token) = timed(partial(_read, model, tokens, None))
        prefill.append(seconds)
        before = read_counters(on_gpu)
        decode.append(_write(model, cache, token, decode_tokens))
        joules.append(joules_between(before, read_counters(on_gpu)))
        first.append(timed(partial(_first_token, model, tokenizer, prompt))[0])
    counted = decode[1:]
    return Speed(
        prefill[1:],
        len(text_tokens),
        [sum(each) for each in counted],
        decode_tokens,
        first[1:],
        [seconds for each in counted for seconds in each],
        load_seconds,
        sum_known(joules[1:]),
    )


def measure_together(
    model: "PreTrainedModel", text_tokens: Sequence[int], decode_tokens: int, sizes: Sequence[int]
) -> dict[int, float]:
    """Tokens per second that several rows write together, by their number: each reads a short text, and goes on."""
    found = {}
    for size in sizes:
        tokens = _tensor([list(text_tokens[:READ_TOGETHER])] * size, model)
        for count in (1, decode_tokens):  # the first time does not count: kernels are chosen by the shape
            seconds, _ = timed(partial(_read_and_write, model, tokens, count))
        found[size] = size * (decode_tokens + 1) / seconds
    return found


def sum_known(values: Sequence[float | None]) -> float | None:
    """Add them up; None if one is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def timed(work: Callable):
    """Seconds that `work` took, its kernels on the GPU included, and what it returned."""
    _synchronize()
    started = time.perf_counter()
    result = work()
    _synchronize()
    return time.perf_counter() - started, result


def _p95(seconds: Sequence[float]) -> float:
    """What 95 of 100 took at the most: of few, between the slowest two."""
    import numpy as np

    return float(np.percentile(seconds, 95))


def _first_token(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str:
    _, token = _read(model, encode_prompt(tokenizer, prompt).to(input_device(model)), None)
    return str(tokenizer.decode(token[0]))


def _read_and_write(model: "PreTrainedModel", tokens: "torch.Tensor", count: int) -> None:
    cache, token = _read(model, tokens, None)
    for _ in range(count):
        cache, token = _read(model, token, cache)


def _write(model: "PreTrainedModel", cache, token: "torch.Tensor", count: int) -> list[float]:
    """Write so many tokens; returns the seconds of each. Each is waited for, as whoever asks whether it was the last must."""
    seconds = []
    for _ in range(count):
        taken, (cache, token) = timed(partial(_read, model, token, cache))
        seconds.append(taken)
    return seconds


def _read(model: "PreTrainedModel", tokens: "torch.Tensor", cache):
    """Read tokens [B, T]; returns the cache and the likeliest next tokens [B, 1]."""
    import torch

    with torch.inference_mode():
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.past_key_values, output.logits[:, -1:].argmax(-1)


def _synchronize() -> None:
    if device.name() == "cuda":
        import torch

        torch.cuda.synchronize()


def _tensor(tokens: list[list[int]], model: "PreTrainedModel") -> "torch.Tensor":
    import torch

    return torch.tensor(tokens, device=input_device(model))
