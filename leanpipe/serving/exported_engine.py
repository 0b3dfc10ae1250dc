"""Answers by llama.cpp, OpenVINO or onnxruntime, for models whose weights are a GGUF or an ONNX file.

They are given token ids: the template, the BOS and the special tokens are those of the model's own tokenizer, and nothing is
put before them a second time.
"""

import asyncio
import json
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse

from leanpipe.engines.llama_cpp import Part
from leanpipe.engines.open_engine import GgufEngine, open_engine
from leanpipe.serving import answers, requests

SLOTS = 8
"""How many requests are answered together; others wait."""
_NEUTRAL: Mapping[str, Any] = {
    "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,
}
"""Sampling that changes nothing, in transformers' order: llama.cpp's own defaults cut a tail off."""
_TOP_K = 50
"""Of the likeliest tokens so many are drawn from, where the model names no number: transformers' default."""


class ExportedEngine:
    """The GGUF or ONNX file in a model folder, loaded for good; `context` tokens of all requests together are remembered.

    `keeps_prompts` lets a request begin where an earlier one with the same beginning ended.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        context: int,
        keeps_prompts: bool = True,
        threads: int | None = None,
        gguf: GgufEngine = "llama.cpp",
    ):
        self._engine = open_engine(folder, context, SLOTS, threads, gguf, keeps_prompts)
        self.threads = self._engine.threads
        self._name, self._habits = name, _habits(folder)
        self._memory, self._keeps_prompts = _Memory(context), keeps_prompts
        self._threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="engine")

    async def answer(self, request: requests.Request) -> Response:
        """Answer a request that was read, whole or as a stream."""
        if request.stream:
            events = answers.finish_stream(self._events(request), request)
            return StreamingResponse(events, media_type="text/event-stream")
        fields = self._fields(request)
        done = await (await self._begin(request, lambda: self._engine.complete(fields)))
        return JSONResponse(answers.finish(self._shaped(done, request, _id(request)), request))

    async def _events(self, request: requests.Request) -> AsyncIterator[dict[str, Any]]:
        """The answer as events, part by part. llama.cpp is stopped when nobody listens any more."""
        loop, parts = asyncio.get_running_loop(), asyncio.Queue[Part | BaseException | None]()
        gone, name, fields = threading.Event(), _id(request), self._fields(request)

        def on_part(part: Part) -> bool:
            loop.call_soon_threadsafe(parts.put_nowait, part)
            return gone.is_set()

        def complete() -> None:
            last: BaseException | None = None
            try:
                self._engine.complete(fields, on_part)
            except Exception as error:  # noqa: BLE001 - raised again where the stream is read
                last = error
            loop.call_soon_threadsafe(parts.put_nowait, last)

        await self._begin(request, complete)
        try:
            while (part := await parts.get()) is not None:
                if isinstance(part, BaseException):
                    raise part
                yield self._shaped(part, request, name)
        finally:
            gone.set()

    async def _begin(self, request: requests.Request, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Begin the work of a request once there is memory for it, which is free again when the work has ended."""
        loop, tokens = asyncio.get_running_loop(), len(request.tokens) + request.fields["max_tokens"]
        await self._memory.take(tokens)
        begun = self._threads.submit(work)
        begun.add_done_callback(lambda _: loop.call_soon_threadsafe(self._memory.give_back, tokens))
        return asyncio.wrap_future(begun)

    def _fields(self, request: requests.Request) -> dict[str, Any]:
        """The request as llama.cpp reads it."""
        asked = request.fields
        fields: dict[str, Any] = {
            "prompt": request.tokens,
            "max_tokens": asked["max_tokens"],
            "cache_prompt": self._keeps_prompts,
            "repeat_last_n": len(request.tokens) + asked["max_tokens"],
            **_NEUTRAL,
            **self._habits,
            **_drawn(asked.get("temperature"), asked.get("top_p")),
            **{name: asked[name] for name in ("top_k", "min_p") if name in asked},
        }
        if request.stops:
            fields["stop"] = request.stops
        if "seed" in asked:
            fields["seed"] = asked["seed"] % (2**32 - 1)  # the last one means any
        if asked.get("ignore_eos"):
            fields["ignore_eos"] = True
        if biases := asked.get("logit_bias"):
            fields["logit_bias"] = [[int(token), float(bias)] for token, bias in biases.items()]
        return fields

    def _shaped(self, part: Part, request: requests.Request, name: str) -> dict[str, Any]:
        """An answer, or a part of one, as OpenAI's API has it for the route that was asked."""
        choices = []
        for choice in part["choices"]:
            said: dict[str, Any] = {"index": choice["index"], "finish_reason": choice["finish_reason"]}
            if not request.chat:
                said |= {"text": choice["text"], "logprobs": None}
            elif request.stream:
                said["delta"] = {"role": "assistant", "content": choice["text"]}
            else:
                said["message"] = {"role": "assistant", "content": choice["text"]}
            choices.append(said)
        kind = "text_completion"
        if request.chat:
            kind = "chat.completion.chunk" if request.stream else "chat.completion"
        shaped = {"id": name, "object": kind, "created": part["created"], "model": self._name}
        usage = {"usage": part["usage"]} if part.get("usage") else {}
        return shaped | {"choices": choices} | usage


class _Memory:
    """Tokens that llama.cpp can remember for all requests together: one that needs more than is free waits its turn."""

    def __init__(self, tokens: int):
        self._free = tokens
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, tokens: int) -> None:
        """Wait until so many are free, and hold them."""
        if not self._waiting and self._free >= tokens:
            self._free -= tokens
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(tokens)
            raise

    def give_back(self, tokens: int) -> None:
        """Let go of so many, and give those who wait their turn."""
        self._free += tokens
        while self._waiting and (self._waiting[0][1].cancelled() or self._free >= self._waiting[0][0]):
            needed, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= needed
                turn.set_result(None)


def _id(request: requests.Request) -> str:
    return f"{'chatcmpl' if request.chat else 'cmpl'}-{uuid.uuid4().hex}"


def _habits(folder: Path) -> dict[str, Any]:
    """How the model draws its answers where a request says nothing, by its generation_config.json."""
    file = folder / "generation_config.json"
    own = json.loads(file.read_text()) if file.is_file() else {}
    return {
        "repeat_penalty": own.get("repetition_penalty") or 1.0,
        "temperature": (own.get("temperature") or 1.0) if own.get("do_sample") else 0.0,
        "top_p": own.get("top_p") or 1.0,
        "top_k": _TOP_K if own.get("top_k") is None else own["top_k"],
    }


def _drawn(temperature: float | None, top_p: float | None) -> dict[str, Any]:
    """What a request says of how the answer is drawn: above 0 it is, whatever the model's own habit."""
    if temperature is None and top_p is None:
        return {}
    if temperature == 0 or top_p == 0:
        return {"temperature": 0.0}
    asked = {"temperature": 1.0 if temperature is None else temperature}
    return asked if top_p is None else asked | {"top_p": top_p}
