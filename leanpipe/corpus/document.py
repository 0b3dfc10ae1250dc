"""The two things that travel through cleaning: a document, and the reason why one was dropped."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

START = 300  # characters of a dropped document that are kept for a person to judge


@dataclass(frozen=True)
class Document:
    """One text of the corpus."""

    id: str
    text: str
    source: str
    """Path of its file, relative to the corpus folder."""
    html: bool = False
    """Whether `text` is still HTML."""
    language: str = ""
    """ISO 639 code, once it has been told."""


class Fault(NamedTuple):
    """Why a document is dropped: the config field whose bound it broke, and what was measured."""

    rule: str
    value: float


def document_id(corpus: int, source: str, position: int) -> str:
    """The same file, at the same place of the same corpus, always has the same ids. 24 hex digits."""
    return hashlib.sha256(f"{corpus}/{source}#{position}".encode(errors="surrogatepass")).hexdigest()[:24]
