"""Read instructions in the shapes that people keep them in, as lists of chat messages."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanpipe.core.errors import UserError
from leanpipe.training.finetune.instruction_files import instruction_files, records

log = logging.getLogger(__name__)

Message = dict[str, Any]
"""{"role": "system" | "user" | "assistant" | "tool", "content": text, and perhaps "tool_calls", "reasoning_content"...}"""

ACCEPTED = (
    "messages [{role, content}]; conversations [{from, value}]; prompt and completion; instruction, input and output; "
    "instruction, context and response; question and answer"
)
_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "developer": "system",  # OpenAI's newer name for it
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_KEPT = ("reasoning_content", "reasoning", "thinking", "tool_call_id", "name")
"""Further fields of a message that templates read."""


@dataclass(frozen=True)
class Conversation:
    """What was said, and the tools that the assistant could call: JSON schemas of functions."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None

    def upto(self, index: int) -> "Conversation":
        """Return the beginning that ends with message `index`."""
        return Conversation(self.messages[: index + 1], self.tools)


@dataclass(frozen=True)
class Instructions:
    """What was read, and how many records were not."""

    conversations: list[Conversation]
    skipped: int
    shapes: dict[str, int]
    """How many of the conversations were written in which of the usual shapes."""

    def describe(self) -> str:
        """Return a line such as "alpaca (990), messages (9)", the most frequent shape first."""
        ordered = sorted(self.shapes.items(), key=lambda shape: -shape[1])
        return ", ".join(f"{name} ({number:,})" for name, number in ordered)


def read_instructions(path: Path) -> Instructions:
    """Read every conversation in a file, or in all of those under a folder, in the order of their names.

    Records that are broken are skipped, counted and logged. Raises UserError if none is left.
    """
    conversations: list[Conversation] = []
    skipped, first_refused = 0, ""
    shapes: Counter[str] = Counter()
    for file in instruction_files(path):
        refused = 0
        for place, record in records(file):
            conversation = to_conversation(record)
            if conversation:
                conversations.append(conversation)
                shapes[shape_of(record)] += 1
                continue
            refused += 1
            first_refused = first_refused or f"{file} has {_describe(record)} at {place}"
        if refused:
            log.warning("%s: %d records are no conversation that could be learnt, skipped", file, refused)
        skipped += refused
    if not conversations:
        raise UserError(
            f"no instructions could be read: {first_refused or f'{path} is empty'}; accepted are {ACCEPTED}"
        )
    read = Instructions(conversations, skipped, dict(shapes))
    log.info("%s: %s", path, read.describe())
    return read


def shape_of(record: Any) -> str:
    """Name which of the usual shapes a record is written in; empty if in none."""
    return next((shape for shape, fields in _fields_of(record)), "")


def to_conversation(record: Any) -> Conversation | None:
    """Turn a record into a conversation; None if it is of no known shape or holds nothing to be learnt."""
    for shape, _ in _fields_of(record):
        messages = _SHAPES[shape][1](record)
        if messages and _learnable(messages):
            return Conversation(messages, _tools(record.get("tools")))
        return None
    return None


def _fields_of(record: Any) -> list[tuple[str, tuple[str, ...]]]:
    """The shapes whose fields the record has all of."""
    if not isinstance(record, dict):
        return []
    shapes = ((name, fields) for name, (fields, _) in _SHAPES.items())
    return [
        (name, fields) for name, fields in shapes if all(record.get(field) is not None for field in fields)
    ]


def _from_messages(record: dict[str, Any]) -> list[Message] | None:
    return _chat(record["messages"], "role", "content")


def _from_conversations(record: dict[str, Any]) -> list[Message] | None:
    turns, system = record["conversations"], record.get("system")
    shared = isinstance(turns, list) and all(isinstance(turn, dict) and "from" in turn for turn in turns)
    messages = _chat(turns, "from", "value") if shared else _chat(turns, "role", "content")
    return [*_said("system", system), *messages] if messages else None


def _from_completion(record: dict[str, Any]) -> list[Message] | None:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _chat([*prompt, *completion], "role", "content")
    return _chat([*_said("user", prompt), *_said("assistant", completion)], "role", "content")


def _from_alpaca(record: dict[str, Any]) -> list[Message] | None:
    """`history` holds earlier pairs of question and answer."""
    history = record.get("history") or []
    question = _joined(record["instruction"], record.get("input") or "")
    if question is None or not _are_pairs(history):
        return None
    pairs = [*history, (question, record["output"])]
    turns = [turn for asked, answer in pairs for turn in (*_said("user", asked), *_said("assistant", answer))]
    return _chat([*_said("system", record.get("system")), *turns], "role", "content")


def _from_dolly(record: dict[str, Any]) -> list[Message] | None:
    question = _joined(record["instruction"], record.get("context") or "")
    return question and _chat(
        [*_said("user", question), *_said("assistant", record["response"])], "role", "content"
    )


def _from_question(record: dict[str, Any]) -> list[Message] | None:
    question = _joined(record.get("context") or "", record["question"])
    return question and _chat(
        [*_said("user", question), *_said("assistant", record["answer"])], "role", "content"
    )


def _joined(one: Any, other: Any) -> Any:
    """Two texts as paragraphs of one; None if either is no text."""
    if not isinstance(one, str) or not isinstance(other, str):
        return None
    return "\n\n".join(part for part in (one, other) if part)


_SHAPES: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], list[Message] | None]]] = {
    "messages": (("messages",), _from_messages),
    "sharegpt": (("conversations",), _from_conversations),
    "prompt-completion": (("prompt", "completion"), _from_completion),
    "alpaca": (("instruction", "output"), _from_alpaca),
    "dolly": (("instruction", "response"), _from_dolly),
    "question-answer": (("question", "answer"), _from_question),
}


def _said(role: str, text: Any) -> list[dict[str, Any]]:
    """One turn; none if nothing was said."""
    return [{"role": role, "content": text}] if text else []


def _are_pairs(history: Any) -> bool:
    return isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)


def _chat(turns: Any, role: str, content: str) -> list[Message] | None:
    """The turns with their roles' usual names; None if any of them is not a text with a known role."""
    if not isinstance(turns, list):
        return None
    messages = [_message(turn, role, content) if isinstance(turn, dict) else None for turn in turns]
    return None if None in messages else messages  # type: ignore[return-value]


def _message(turn: dict[str, Any], role: str, content: str) -> Message | None:
    name, text = _ROLES.get(str(turn.get(role))), _text(turn.get(content))
    calls = _calls(turn.get("tool_calls"))
    if turn.get(role) == "function_call" and text:
        calls, text = _calls(text), ""
        if not calls:
            return None
    if name is None or (text is None and not calls):
        return None
    kept = {field: turn[field] for field in _KEPT if isinstance(turn.get(field), str)}
    return {"role": name, "content": text or "", **kept, **({"tool_calls": calls} if calls else {})}


def _text(content: Any) -> str | None:
    """A message's words; parts of text are joined. None if there are none, or something other than text is among them."""
    if isinstance(content, list) and content:
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def _calls(given: Any) -> list[dict[str, Any]]:
    """Calls of functions in OpenAI's shape, with their arguments as an object, which is what templates expect."""
    listed = _parsed(given)
    calls = []
    for call in listed if isinstance(listed, list) else [listed]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return []
        named = {"name": function["name"], "arguments": _parsed(function.get("arguments", {}))}
        identified = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        calls.append({**identified, "type": "function", "function": named})
    return calls


def _tools(given: Any) -> list[dict[str, Any]] | None:
    """Schemas of functions in OpenAI's shape; None without any."""
    listed = _parsed(given)
    if not isinstance(listed, list) or not listed or not all(isinstance(tool, dict) for tool in listed):
        return None
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in listed]


def _parsed(value: Any) -> Any:
    """What a text of JSON stands for; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _learnable(messages: list[Message]) -> bool:
    """Whether somebody asks and the assistant answers something."""
    roles = [message["role"] for message in messages]
    answers = [message for message in messages if message["role"] == "assistant"]
    spoken = any(answer["content"].strip() or answer.get("tool_calls") for answer in answers)
    return spoken and "user" in roles[: roles.index("assistant")]


def _describe(record: Any) -> str:
    if isinstance(record, dict):
        return f"the fields {', '.join(sorted(record)) or '(none)'}"
    return f"{str(record)[:40]!r}"
