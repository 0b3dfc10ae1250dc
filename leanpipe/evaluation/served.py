"""How fast a GGUF or ONNX model reads and writes, what memory it takes and what it answers, through the server that serves it.

What is timed is what a client waits for: HTTP, templates and tokens included.
"""

import json
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leanpipe.core import device
from leanpipe.engines.open_engine import GgufEngine
from leanpipe.evaluation.efficiency import READ_TOGETHER, Speed, sum_known
from leanpipe.evaluation.generate import SEED, TOGETHER, Generation, encode_prompt
from leanpipe.evaluation.usage.energy import joules_between, read_counters
from leanpipe.evaluation.usage.sampling import GREEDY, Sampling
from leanpipe.serving.engine_choice import Way
from leanpipe.serving.serve import MODEL_NAME, running_server

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPARE = 16
"""Tokens that a text may have more when a server reads it than it had when it was cut."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Served:
    """What was seen of a model while it was served."""

    speed: Speed
    generations: list[Generation]
    peak_memory: int
    """Bytes that the server took at the most on top of what it held before the model was loaded."""


@dataclass(frozen=True)
class Workload:
    """What a server is asked: prompts, and a text to go on from."""

    prompts: Sequence[str]
    max_new_tokens: int
    text_tokens: Sequence[int]
    decode_tokens: int
    repeats: int
    samplings: Sequence[Sampling] = (Sampling(GREEDY),)
    """How the answers to the prompts are drawn."""
    batch_sizes: Sequence[int] = ()
    """How many requests come at once, where several do."""


def measure_served(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", work: Workload, gguf: GgufEngine = "llama.cpp"
) -> Served:
    """Serve the model in `folder`, and measure it while it does the work: one request at a time, then several at once.

    `gguf` runs a GGUF file.
    """
    text = _text(tokenizer, work.text_tokens)
    longest, way = _longest(tokenizer, work), Way(gguf=gguf)
    with running_server(folder, port=free_port(), measured=longest, way=way) as (url, process):
        speed = _speed(url, tokenizer, text, work)
        health = _get(f"{url}/health")
        # Before several are answered at once, which takes more.
        peak = device.resident_peak(process.pid) - health["memory_before_model"]
        together = {size: _together(url, tokenizer, work, size) for size in work.batch_sizes}
        speed = replace(speed, load_seconds=health["load_seconds"], together=together)
        return Served(speed, _generations(url, tokenizer, work), peak)


def _longest(tokenizer: "PreTrainedTokenizerBase", work: Workload) -> int:
    """Tokens that the server must remember at once, those of its longest request or of several short ones."""
    asked = max(encode_prompt(tokenizer, prompt).shape[1] for prompt in work.prompts) + work.max_new_tokens
    single = max(asked, len(work.text_tokens) + work.decode_tokens + 1) + _SPARE
    rows = min(TOGETHER, max(work.batch_sizes, default=1))
    return max(single, rows * (READ_TOGETHER + work.decode_tokens + 1 + _SPARE) if rows > 1 else 0)


def generate_served(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], max_new_tokens: int
) -> list[Generation]:
    """Serve the model in `folder`, and ask it each prompt: greedily, with at most `max_new_tokens` tokens."""
    longest = max(encode_prompt(tokenizer, prompt).shape[1] for prompt in prompts) + max_new_tokens
    with running_server(folder, port=free_port(), measured=longest + _SPARE) as (url, _):
        return [_generation(url, tokenizer, Sampling(GREEDY), prompt, max_new_tokens) for prompt in prompts]


def _speed(url: str, tokenizer: "PreTrainedTokenizerBase", text: str, work: Workload) -> Speed:
    asked = {"prompt": text, "max_tokens": work.decode_tokens + 1, "ignore_eos": True}
    question = {**_question(tokenizer, work.prompts[0]), "max_tokens": 1}
    timings = [(_timed(url, asked), _timed(url, question)) for _ in range(work.repeats + 1)][1:]
    texts = [text for text, _ in timings]
    return Speed(
        prefill_seconds=[one.first for one in texts],
        prefill_tokens=texts[0].prompt_tokens,
        decode_seconds=[one.each * work.decode_tokens for one in texts],
        decode_tokens=work.decode_tokens,
        first_token_seconds=[answer.first for _, answer in timings],
        token_seconds=[gap for one in texts for gap in one.gaps or [one.each]],
        load_seconds=0.0,
        joules=sum_known([one.joules for one in texts]),
    )


class _Timing(NamedTuple):
    """When the parts of a streamed answer came, in seconds."""

    first: float
    """From the request to the first token."""
    each: float
    """For each further one."""
    gaps: list[float]
    """From part to part."""
    prompt_tokens: int
    joules: float | None
    """What the processor took from the first part to the last."""


def _timed(url: str, request: dict[str, Any]) -> _Timing:
    started = time.perf_counter()
    seen: list[float] = []
    usage: dict[str, int] = {}
    first = last = read_counters()
    for event in _stream(url, request):
        usage = event.get("usage") or usage
        if event["choices"] and (text := event["choices"][0]) and not text["finish_reason"]:
            seen.append(time.perf_counter())
            last = read_counters()
            first = last if len(seen) == 1 else first
    seen = seen or [time.perf_counter()]
    return _Timing(
        first=seen[0] - started,
        each=(seen[-1] - seen[0]) / max(1, usage["completion_tokens"] - 1),
        gaps=[after - before for before, after in pairwise(seen)],
        prompt_tokens=usage["prompt_tokens"],
        joules=joules_between(first, last),
    )


def _together(url: str, tokenizer: "PreTrainedTokenizerBase", work: Workload, size: int) -> float:
    """Tokens per second that all of so many requests write that come at once; those that are too many for the server wait."""
    text = _text(tokenizer, work.text_tokens[:READ_TOGETHER])
    request = {"prompt": text, "max_tokens": work.decode_tokens + 1, "ignore_eos": True}
    with ThreadPoolExecutor(size) as clients:
        started = time.perf_counter()
        answers = list(clients.map(lambda _: json.load(_open(url, request)), range(size)))
        seconds = time.perf_counter() - started
    return sum(answer["usage"]["completion_tokens"] for answer in answers) / seconds


def _generations(url: str, tokenizer: "PreTrainedTokenizerBase", work: Workload) -> list[Generation]:
    """An answer to each prompt in each way of drawing it, several at once."""
    with ThreadPoolExecutor(TOGETHER) as clients:
        asked = [
            clients.submit(_generation, url, tokenizer, how, prompt, work.max_new_tokens)
            for how in work.samplings
            for prompt in work.prompts
        ]
        return [one.result() for one in asked]


def _generation(
    url: str, tokenizer: "PreTrainedTokenizerBase", how: Sampling, prompt: str, most: int
) -> Generation:
    drawn = {**how.numbers(), "seed": SEED} if how.drawn else {"temperature": 0}
    answer = json.load(_open(url, {**_question(tokenizer, prompt), "max_tokens": most, **drawn}))
    choice = answer["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    stopped = choice["finish_reason"] == "stop"
    return Generation(prompt, text, answer["usage"]["completion_tokens"], stopped, how.name)


def _question(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> dict[str, Any]:
    """The prompt as a user's turn if the model has a chat template, else as a text to go on from."""
    if tokenizer.chat_template:
        return {"messages": [{"role": "user", "content": prompt}]}
    return {"prompt": prompt}


def _stream(url: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for line in _open(url, request | options):
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def _open(url: str, request: dict[str, Any]):
    route = "chat/completions" if "messages" in request else "completions"
    body = json.dumps({"model": MODEL_NAME, "temperature": 0, **request}).encode()
    return _DIRECT.open(
        urllib.request.Request(f"{url}/v1/{route}", body, {"Content-Type": "application/json"})
    )


def _get(address: str) -> dict[str, Any]:
    with _DIRECT.open(address) as answer:
        return json.load(answer)


def _text(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int]) -> str:
    """A text that the server reads as no more tokens than these."""
    kept = list(tokens)
    while len(kept) > 1 and len(tokenizer(str(tokenizer.decode(kept)))["input_ids"]) > len(tokens):
        kept = kept[:-1]
    return str(tokenizer.decode(kept))


def free_port() -> int:
    """Find a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
