"""The two things that travel through cleaning: a document, and the reason why one was dropped."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

EXCERPT = 300
"""Characters of a dropped document that are kept for a person to judge."""


@dataclass(frozen=True)
class Document:
    """One text of the corpus."""

    id: str
    text: str
    source: str
    """Path of its file, relative to the corpus folder."""
    html: bool = False
    """Whether `text` is still HTML."""


class Fault(NamedTuple):
    """Why a document is dropped: the config field whose bound it broke, and what was measured."""

    rule: str
    value: float


def document_id(corpus: int, source: str, position: int) -> str:
    """Return 24 hex digits that are always the same for the same place of the same file of the same corpus."""
    return hashlib.sha256(f"{corpus}/{source}#{position}".encode(errors="surrogatepass")).hexdigest()[:24]
