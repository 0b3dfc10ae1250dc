"""Read instructions in the shapes that people keep them in, as lists of chat messages."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanpipe.errors import UserError

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


def read_instructions(path: Path) -> Instructions:
    """Every conversation in a .json or .jsonl file, or in all of those under a folder, in the order of their names.

    Records that are broken are skipped, counted and logged. Raises UserError if none is left.
    """
    conversations: list[list[Message]] = []
    skipped, first_refused = 0, ""
    for file in _files(path):
        refused = 0
        for place, record in _records(file):
            conversation = to_messages(record)
            if conversation:
                conversations.append(conversation)
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
    return Instructions(conversations, skipped)


def to_messages(record: Any) -> list[Message] | None:
    """The record as chat messages, or None if it is of no known shape or holds nothing to be learnt."""
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
    turns = record["conversations"]
    names = (
        ("from", "value") if isinstance(turns, list) and turns and "from" in turns[0] else ("role", "content")
    )
    messages = _chat(turns, *names)
    system = record.get("system")
    return [{"role": "system", "content": system}, *messages] if messages and system else messages


def _from_completion(record: dict[str, Any]) -> list[Message] | None:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _chat([*prompt, *completion], "role", "content")
    return _exchange(None, prompt, completion)


def _from_alpaca(record: dict[str, Any]) -> list[Message] | None:
    instruction, extra = record["instruction"], record.get("input") or ""
    if not isinstance(instruction, str) or not isinstance(extra, str):
        return None
    return _exchange(
        record.get("system"), "\n\n".join(part for part in (instruction, extra) if part), record["output"]
    )


_SHAPES: dict[tuple[str, ...], Callable[[dict[str, Any]], list[Message] | None]] = {
    ("messages",): _from_messages,
    ("conversations",): _from_conversations,
    ("prompt", "completion"): _from_completion,
    ("instruction", "output"): _from_alpaca,
}


def _exchange(system: str | None, question: Any, answer: Any) -> list[Message] | None:
    turns = [("system", system), ("user", question), ("assistant", answer)]
    return _chat(
        [{"role": role, "content": text} for role, text in turns if role != "system" or text],
        "role",
        "content",
    )


def _chat(turns: Any, role: str, content: str) -> list[Message] | None:
    """The turns with their roles' usual names; None if any of them is not a text with a known role."""
    if not isinstance(turns, list):
        return None
    messages = []
    for turn in turns:
        if (
            not isinstance(turn, dict)
            or turn.get(role) not in _ROLES
            or not isinstance(turn.get(content), str)
        ):
            return None
        messages.append({"role": _ROLES[turn[role]], "content": turn[content]})
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
