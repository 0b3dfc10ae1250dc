"""Finish what the engine answers: without the texts at which it was to stop, and as a stream that clients know the end of."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

from leanpipe.serving.requests import Request

_DONE = "data: [DONE]\n\n"


def finish(answer: dict[str, Any], request: Request) -> dict[str, Any]:
    """Cut a whole answer where it was to stop: the engine returns the text that stopped it, OpenAI's API does not."""
    for choice in answer.get("choices", []):
        holder = choice.get("message", choice)
        name = "content" if "message" in choice else "text"
        text = holder.get(name) or ""
        cut = min((place for stop in request.stops if (place := text.find(stop)) >= 0), default=-1)
        if cut >= 0:
            holder[name], choice["finish_reason"] = text[:cut], "stop"
    return answer


async def finish_stream(
    parts: AsyncIterable[str | bytes | memoryview | dict[str, Any]], request: Request
) -> AsyncIterator[str]:
    """Cut a stream of events where it was to stop, and end it with the count of tokens if asked and [DONE].

    Its parts are server-sent events, or what they hold.
    """
    text, counted = Stopping(request.stops), None
    async for part in parts:
        for event in _events(part):
            counted = event.pop("usage", None) or counted
            yield from_event(_without_stop(event, text))
    if counted and request.usage:
        yield from_event({**_LAST, "usage": counted})
    yield _DONE


_LAST: dict[str, Any] = {"object": "chat.completion.chunk", "choices": []}


def from_event(event: dict[str, Any]) -> str:
    """Write a server-sent event."""
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _events(part: str | bytes | memoryview | dict[str, Any]) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        return
    for line in (part if isinstance(part, str) else bytes(part).decode()).split("\n\n"):
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _without_stop(event: dict[str, Any], text: "Stopping") -> dict[str, Any]:
    for choice in event.get("choices", []):
        holder = choice.get("delta", choice)
        name = "content" if "delta" in choice else "text"
        ended = choice.get("finish_reason") is not None
        said = text.add(holder.get(name) or "", ended)
        if said or holder.get(name):
            holder[name] = said
        if ended and text.stopped:
            choice["finish_reason"] = "stop"
    return event


class Stopping:
    """Text that comes in pieces, up to the first of some texts: a piece that may be the beginning of one is held back."""

    def __init__(self, stops: list[str]):
        self._stops = stops
        self._held = ""
        self.stopped = False

    def add(self, piece: str, ended: bool) -> str:
        """Return what of the text so far can be shown now; all of it if it has `ended`."""
        if self.stopped:
            return ""
        text = self._held + piece
        cut = min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped, self._held = True, ""
            return text[:cut]
        kept = 0 if ended else max((self._beginning(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    @staticmethod
    def _beginning(text: str, stop: str) -> int:
        """How many of the last characters are the first ones of a stop."""
        return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)
