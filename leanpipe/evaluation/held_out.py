"""Held-out text: the same passages for every model, chosen without looking at any model."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from leanpipe.errors import UserError
from leanpipe.store import digest_json


@dataclass(frozen=True)
class Passage:
    """A held-out document, or the beginning of a long one."""

    id: str
    text: str

    @property
    def bytes(self) -> int:
        return len(self.text.encode())


def held_out(documents: Path, text_bytes: int, document_bytes: int) -> list[Passage]:
    """About `text_bytes` bytes of `documents/test.parquet`, at most `document_bytes` of each document, from its start.

    Documents are taken in the order of a hash of their id, so that the first ones come from every source alike. Raises
    UserError if fewer than two documents are there: one alone says nothing about how certain its figure is.
    """
    import pandas

    path = documents / "test.parquet"
    if not path.exists():
        raise UserError(f"no held-out text: {path} is missing; give the output folder of the clean stage")
    table = pandas.read_parquet(path, columns=["id", "text"])
    rows = sorted(zip(table["id"].astype(str), table["text"], strict=True), key=lambda row: _order(row[0]))
    passages = []
    for name, text in rows:
        start = _first_bytes(text, min(document_bytes, text_bytes))
        if start.strip():
            passages.append(Passage(name, start))
            text_bytes -= passages[-1].bytes
        if text_bytes <= 0:
            break
    if len(passages) < 2:
        raise UserError(
            f"{path} holds {len(passages)} documents to evaluate on: at least 2 are needed; hold out more"
        )
    return passages


def text_digest(passages: list[Passage], context: int) -> str:
    """Names the text and the windows it is scored in: only figures with the same digest compare."""
    return digest_json([[passage.text for passage in passages], context])


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _first_bytes(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, never half a character."""
    return text.encode()[:limit].decode(errors="ignore")
