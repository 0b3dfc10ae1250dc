"""How fast a GGUF or ONNX model reads and writes, what memory it takes and what it answers, through the server that serves it.

What is timed is what a client waits for: HTTP, templates and tokens included.
"""

import json
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.core import device
from leanpipe.evaluation.efficiency import Speed
from leanpipe.evaluation.generate import Generation, encode_prompt
from leanpipe.models.load import document_separator
from leanpipe.serving.serve import MODEL_NAME, running_server

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPARE = 16
"""Tokens that a text may have more when a server reads it than it had when it was cut."""
_NEVER = -100
"""The bias of a token that is not to be chosen."""
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


def measure_served(folder: Path, tokenizer: "PreTrainedTokenizerBase", work: Workload) -> Served:
    """Serve the model in `folder`, and measure it while it does the work, one request at a time."""
    text = _text(tokenizer, work.text_tokens)
    asked = max(encode_prompt(tokenizer, prompt).shape[1] for prompt in work.prompts) + work.max_new_tokens
    longest = max(asked, len(work.text_tokens) + work.decode_tokens + 1) + _SPARE
    with running_server(folder, port=free_port(), measured=longest) as (url, process):
        speed = _speed(url, tokenizer, text, work)
        generations = [_generation(url, tokenizer, prompt, work.max_new_tokens) for prompt in work.prompts]
        before = _get(f"{url}/health")["memory_before_model"]
        return Served(speed, generations, device.resident_peak(process.pid) - before)


def generate_served(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], max_new_tokens: int
) -> list[Generation]:
    """Serve the model in `folder`, and ask it each prompt: greedily, with at most `max_new_tokens` tokens."""
    longest = max(encode_prompt(tokenizer, prompt).shape[1] for prompt in prompts) + max_new_tokens
    with running_server(folder, port=free_port(), measured=longest + _SPARE) as (url, _):
        return [_generation(url, tokenizer, prompt, max_new_tokens) for prompt in prompts]


def _speed(url: str, tokenizer: "PreTrainedTokenizerBase", text: str, work: Workload) -> Speed:
    ends = {document_separator(tokenizer), tokenizer.eos_token_id} - {None}
    going_on = {"logit_bias": {str(token): _NEVER for token in ends}}
    prefill, decode, first, tokens = [], [], [], 0
    for _ in range(work.repeats + 1):
        seconds, written, tokens = _timed(
            url, {"prompt": text, "max_tokens": work.decode_tokens + 1, **going_on}
        )
        prefill.append(seconds)
        decode.append(written * work.decode_tokens)
        first.append(_timed(url, {**_question(tokenizer, work.prompts[0]), "max_tokens": 1})[0])
    return Speed(prefill[1:], tokens, decode[1:], work.decode_tokens, first[1:])


def _timed(url: str, request: dict[str, Any]) -> tuple[float, float, int]:
    """Seconds to the first token, seconds for each further one, and how many tokens were read."""
    started = time.perf_counter()
    seen: list[float] = []
    usage: dict[str, int] = {}
    for event in _stream(url, request):
        usage = event.get("usage") or usage
        if event["choices"] and (text := event["choices"][0]) and not text["finish_reason"]:
            seen.append(time.perf_counter())
    ended = time.perf_counter()
    further = max(1, usage["completion_tokens"] - 1)
    return (
        (seen or [ended])[0] - started,
        ((seen or [ended])[-1] - (seen or [started])[0]) / further,
        usage["prompt_tokens"],
    )


def _generation(url: str, tokenizer: "PreTrainedTokenizerBase", prompt: str, most: int) -> Generation:
    question = {**_question(tokenizer, prompt), "max_tokens": most}
    answer = json.load(_open(url, question))
    choice = answer["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Generation(prompt, text, answer["usage"]["completion_tokens"], choice["finish_reason"] == "stop")


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
