"""Held-out text: the same passages for every model, chosen without looking at any model."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path, PurePath

from leanpipe.core.errors import UserError
from leanpipe.core.store import digest_json
from leanpipe.corpus.tables import read_batches, split_files


@dataclass(frozen=True)
class Passage:
    """A held-out document, or the beginning of a long one."""

    id: str
    text: str
    source: str = ""
    """Where it came from: the path of its file in the corpus, and perhaps its place in it."""

    @property
    def collection(self) -> str:
        """Name the file that the document is one of, or the folder of a file that is one document."""
        file, _, place = self.source.partition("#")
        return file if place else str(PurePath(file).parent)

    @property
    def bytes(self) -> int:
        return len(self.text.encode())

    @property
    def digest(self) -> str:
        """Name the text itself, wherever it stands: two corpora may give different texts one id."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:24]


def held_out(documents: Path, text_bytes: int, document_bytes: int) -> list[Passage]:
    """About `text_bytes` bytes of the split `test` of `documents`, at most `document_bytes` of each, from its start.

    Documents are taken in the order of a hash of their id, so that the first ones come from every source alike. Raises
    UserError if fewer than two documents are there: one alone says nothing about how certain its figure is.
    """
    files = split_files(documents, "test")
    if not files:
        raise UserError(
            f"no held-out text: {documents / 'test'} has no documents; give the output folder of the clean stage"
        )
    first: list[Passage] = []
    for batch in chain.from_iterable(read_batches(path, ["id", "text", "source"]) for path in files):
        starts = [
            Passage(row["id"], _first_bytes(row["text"], min(document_bytes, text_bytes)), row["source"])
            for row in batch.to_pylist()
        ]
        both = [*first, *(passage for passage in starts if passage.text.strip())]
        first = _within(sorted(both, key=lambda passage: _order(passage.id)), text_bytes)
    passages = _cut_last(first, text_bytes)
    if len(passages) < 2:
        raise UserError(
            f"{documents / 'test'} holds {len(passages)} documents to evaluate on: at least 2 are needed; hold out more"
        )
    return passages


def text_digest(passages: list[Passage], context: int, stride: int) -> str:
    """Names the text and the windows it is scored in: only figures with the same digest compare."""
    return digest_json([[passage.text for passage in passages], context, stride])


def _within(passages: Sequence[Passage], text_bytes: int) -> list[Passage]:
    """The first of them, until there is enough text."""
    before = accumulate((passage.bytes for passage in passages), initial=0)
    return [passage for passage, size in zip(passages, before, strict=False) if size < text_bytes]


def _cut_last(passages: Sequence[Passage], text_bytes: int) -> list[Passage]:
    """The same passages, without what of the last one is too much."""
    *whole, last = passages or [Passage("", "")]
    rest = _first_bytes(last.text, text_bytes - sum(passage.bytes for passage in whole))
    return [*whole, replace(last, text=rest)] if rest.strip() else whole


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _first_bytes(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, never half a character."""
    return text.encode()[:limit].decode(errors="ignore")
