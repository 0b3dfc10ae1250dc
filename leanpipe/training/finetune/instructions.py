"""Read instructions in the shapes that people keep them in, as lists of chat messages."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanpipe.core.errors import UserError

log = logging.getLogger(__name__)

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant" | ..., "content": text}"""

ACCEPTED = "messages [{role, content}]; conversations [{from, value}]; prompt and completion; instruction, input and output"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Instructions:
    """What was read, and how many records were not."""

    conversations: list[list[Message]]
    skipped: int
    shapes: dict[str, int]
    """How many of the conversations were written in which of the usual shapes."""

    def describe(self) -> str:
        """Return a line such as "alpaca (990), messages (9)", the most frequent shape first."""
        ordered = sorted(self.shapes.items(), key=lambda shape: -shape[1])
        return ", ".join(f"{name} ({number:,})" for name, number in ordered)


def read_instructions(path: Path) -> Instructions:
    """Read every conversation in a .json or .jsonl file, or in all of those under a folder, in the order of their names.

    Records that are broken are skipped, counted and logged. Raises UserError if none is left.
    """
    conversations: list[list[Message]] = []
    skipped, first_refused = 0, ""
    shapes: Counter[str] = Counter()
    for file in _files(path):
        refused = 0
        for place, record in _records(file):
            conversation = to_messages(record)
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
    named = isinstance(record, dict) and next(
        (name for fields, name in _NAMES.items() if all(record.get(field) is not None for field in fields)),
        "",
    )
    return named or ""


def to_messages(record: Any) -> list[Message] | None:
    """Turn a record into chat messages; None if it is of no known shape or holds nothing to be learnt."""
    if not isinstance(record, dict):
        return None
    for fields, convert in _SHAPES.items():
        if all(record.get(field) is not None for field in fields):
            messages = convert(record)
            return messages if messages and _learnable(messages) else None
    return None


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
    question, extra, history = record["instruction"], record.get("input") or "", record.get("history") or []
    if not isinstance(question, str) or not isinstance(extra, str) or not _are_pairs(history):
        return None
    pairs = [*history, ("\n\n".join(part for part in (question, extra) if part), record["output"])]
    turns = [turn for asked, answer in pairs for turn in (*_said("user", asked), *_said("assistant", answer))]
    return _chat([*_said("system", record.get("system")), *turns], "role", "content")


_SHAPES: dict[tuple[str, ...], Callable[[dict[str, Any]], list[Message] | None]] = {
    ("messages",): _from_messages,
    ("conversations",): _from_conversations,
    ("prompt", "completion"): _from_completion,
    ("instruction", "output"): _from_alpaca,
}


_NAMES = {
    ("messages",): "messages",
    ("conversations",): "sharegpt",
    ("prompt", "completion"): "prompt-completion",
    ("instruction", "output"): "alpaca",
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
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get(content), str):
            return None
        name = _ROLES.get(str(turn.get(role)))
        if name is None:
            return None
        messages.append({"role": name, "content": turn[content]})
    return messages


def _learnable(messages: list[Message]) -> bool:
    """Whether somebody asks and the assistant answers something."""
    roles = [message["role"] for message in messages]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    return any(answer.strip() for answer in answers) and "user" in roles[: roles.index("assistant")]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(
            f"the instructions {path} do not exist: give a .json or .jsonl file, or a folder of them"
        )
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in found if file.suffix in (".json", ".jsonl")]
    if not files:
        raise UserError(f"{path} holds no .json or .jsonl file with instructions")
    return files


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    """Each record with its place in the file. A line that is no JSON comes as the text it is."""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    if file.suffix == ".json":
        try:
            whole = json.loads(text)
        except ValueError:
            whole = None  # .json files with one record per line are common
        if whole is not None:
            records = whole if isinstance(whole, list) else [whole]
            yield from ((f"record {number}", record) for number, record in enumerate(records, 1))
            return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", _parse(line)


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def _describe(record: Any) -> str:
    if isinstance(record, dict):
        return f"the fields {', '.join(sorted(record)) or '(none)'}"
    return f"{str(record)[:40]!r}"
