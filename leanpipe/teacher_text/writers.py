"""The engines that write a teacher's text: llama.cpp in this process, or transformers in batches, as on a GPU."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from leanpipe.teacher_text.prompts import Prompt

if TYPE_CHECKING:
    import torch

_GGUF = "teacher.gguf"


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn, and how many there are at most."""

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Written:
    """What a teacher wrote after a prompt."""

    prompt: Prompt
    text: str
    ended: bool
    """Whether it came to an end by itself."""


class Writer(Protocol):
    """Goes on from prompts."""

    def write(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Written]:
        """Yield what is written after each of the prompts, in their order."""


class LlamaCppWriter:
    """llama.cpp with a teacher in 8 bits. Several texts are written at once, each with a seed of its own."""

    def __init__(self, teacher: Path, folder: Path, longest: int, streams: int):
        """Write the teacher's GGUF file to `folder`, if it is not there, and load it for texts of `longest` tokens."""
        from leanpipe.compression.gguf_export import GgufTypes, write_gguf
        from leanpipe.core.files import written_whole
        from leanpipe.engines.llama_cpp import LlamaCpp
        from leanpipe.models.load import load_model, load_tokenizer

        path = folder / _GGUF
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            model, types = load_model(teacher), GgufTypes("q8_0", "q8_0", frozenset())
            with written_whole(path) as partial:
                write_gguf(model, load_tokenizer(teacher), types, partial)
        self._streams = streams
        self._engine = LlamaCpp(path, longest * streams, slots=streams)

    def write(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Written]:
        """Yield what is written after each of the prompts, in their order."""
        pool = ThreadPoolExecutor(self._streams)
        try:
            yield from pool.map(lambda prompt: self._one(prompt, sampling), prompts)
        finally:
            pool.shutdown(cancel_futures=True)

    def _one(self, prompt: Prompt, sampling: Sampling) -> Written:
        asked = {
            "prompt": list(prompt.tokens),
            "n_predict": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "seed": prompt.seed(sampling.seed),
            # What an earlier prompt left in a slot must not decide how this one is reckoned.
            "cache_prompt": False,
        }
        choice = self._engine.complete(asked)["choices"][0]
        return Written(prompt, choice["text"], choice.get("finish_reason") == "stop")


class TransformersWriter:
    """transformers, a batch of prompts at a time; each row is drawn by a generator of its own."""

    def __init__(self, teacher: Path, rows: int):
        """Load the teacher onto the device; `rows` texts are written at once."""
        from leanpipe.models.load import load_for_inference, load_tokenizer

        self._model: Any = load_for_inference(teacher)
        self._tokenizer, self._rows = load_tokenizer(teacher), rows

    def write(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Written]:
        """Yield what is written after each of the prompts, in their order."""
        for start in range(0, len(prompts), self._rows):
            yield from self._batch(prompts[start : start + self._rows], sampling)

    def _batch(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Written]:
        import torch
        from transformers import LogitsProcessorList

        longest = max(len(prompt.tokens) for prompt in prompts)
        end = self._tokenizer.eos_token_id
        padding = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else end
        rows = [[padding] * (longest - len(one.tokens)) + list(one.tokens) for one in prompts]
        mask = [[0] * (longest - len(one.tokens)) + [1] * len(one.tokens) for one in prompts]
        # Greedy over logits with Gumbel noise is a draw, and the noise can be each row's own.
        draws = LogitsProcessorList([_Draws(prompts, sampling)])
        with torch.inference_mode():
            written = self._model.generate(
                torch.tensor(rows, device=self._model.device),
                attention_mask=torch.tensor(mask, device=self._model.device),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                pad_token_id=padding,
                logits_processor=draws,
            )
        for prompt, row in zip(prompts, written[:, longest:].tolist(), strict=True):
            ended = end in row
            tokens = row[: row.index(end)] if ended else row
            yield Written(prompt, self._tokenizer.decode(tokens, skip_special_tokens=True), ended)


class _Draws:
    """Makes the largest logit of each row a draw by temperature and top-p (the Gumbel-max trick), row by row."""

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling):
        import torch

        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(one.seed(sampling.seed)) for one in prompts]

    def __call__(self, _: "torch.Tensor", logits_BV: "torch.Tensor") -> "torch.Tensor":
        import torch

        if self._sampling.temperature == 0:
            return logits_BV
        log_p_BV = (logits_BV.float() / self._sampling.temperature).log_softmax(-1)
        sorted_BV, order_BV = log_p_BV.sort(-1, descending=True)
        before_BV = sorted_BV.exp().cumsum(-1) - sorted_BV.exp()
        outside_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(
            -1, order_BV, before_BV >= self._sampling.top_p
        )
        width = log_p_BV.shape[-1]
        uniform_BV = torch.stack([torch.rand(width, generator=generator) for generator in self._generators])
        noise_BV = -(-uniform_BV.clamp(1e-20, 1 - 1e-7).log()).log()
        return log_p_BV.masked_fill(outside_BV, -torch.inf) + noise_BV.to(log_p_BV.device)
