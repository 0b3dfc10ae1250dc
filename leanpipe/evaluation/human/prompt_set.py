"""Prompts from a file of a person's own: a line each, or records with what is asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leanpipe.core.errors import UserError, refused_if_unreadable
from leanpipe.training.finetune.instruction_files import ENDINGS, instruction_files, records

_ASKING = ("prompt", "instruction", "question")
_MORE = ("input", "context")
"""Fields that go on with what is asked."""
ACCEPTED_PROMPTS = "prompt; instruction and input; question; messages, of which what is asked first counts"


def read_prompts(path: Path) -> list[str]:
    """Read what is asked, each once, in the order of the file. Raises UserError if nothing is, or if a record asks nothing."""
    prompts = list(dict.fromkeys(_lines(path) if path.suffix.lower() in (".txt", ".md") else _records(path)))
    if not prompts:
        raise UserError(f"the prompt set {path} is empty: give a file with a prompt in each line")
    return prompts


def _lines(path: Path) -> Iterator[str]:
    with refused_if_unreadable(f"the prompt set {path}", "give a text file in UTF-8"):
        text = path.read_text(encoding="utf-8-sig")
    yield from (line.strip() for line in text.splitlines() if line.strip())


def _records(path: Path) -> Iterator[str]:
    if path.is_file() and not {suffix.lower() for suffix in path.suffixes} & set(ENDINGS):
        raise UserError(
            f"the prompt set {path} is no file of prompts: give a .txt file or one of {', '.join(ENDINGS)}"
        )
    for file in instruction_files(path):
        for place, record in records(file):
            asked = _asked(record)
            if not asked:
                raise UserError(
                    f"{file} asks nothing at {place}: each record needs one of {ACCEPTED_PROMPTS}"
                )
            yield asked


def _asked(record: Any) -> str:
    """What a record asks; empty if nothing. A line that is no JSON is no record: half of one would be asked as it stands."""
    if not isinstance(record, dict):
        return ""
    if isinstance(turns := record.get("messages"), list):
        asked = (turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user")
        return _text(next(asked, {}).get("content"))
    first = next((text for name in _ASKING if (text := _text(record.get(name)))), "")
    more = (_text(record.get(name)) for name in _MORE)
    return "\n\n".join(part for part in (first, *more) if part) if first else ""


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
