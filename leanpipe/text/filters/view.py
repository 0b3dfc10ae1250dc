"""A document as the filters see it: what they measure is counted once, whatever number of them asks.

A text is cut at white space, and what a piece holds is looked up in a table that grows from document to document:
most pieces have been met before, so the rules of `words` run for a few in a hundred, and numpy does the rest.
"""

import re
import threading
from array import array
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from leanpipe.text.filters.words import STOP_WORDS, has_letter, is_mark, split_chunk
from leanpipe.text.language import SPACELESS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STOP_BITS = {word: 1 << place for place, word in enumerate(STOP_WORDS)}
_MOST_CHUNKS, _MOST_CHARACTERS = 1 << 18, 1 << 23  # of a table, before a new one is begun: about 60 MB
_BLOCK = 1 << 20  # characters of a text that are cut at once, so that a huge one is not held in pieces
_SPACE = re.compile(r"\s")
_NOT_LETTERS = re.compile(r"[\d_]")
_COLUMNS = 6
_ODD = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio's fraction: its bits are well mixed


class Counts(NamedTuple):
    """What is counted over the words of a text. Punctuation marks are words too, as in spaCy."""

    words: int
    """All of them."""
    real: int
    """Those with a letter or digit."""
    characters: int
    """Characters of the real ones."""
    alphabetic: int
    """Those with a letter."""
    stop_words: int
    """How many of the eight stop words occur, in whatever case."""


class Words(NamedTuple):
    """The words of a text in order, as arrays of shape (words,)."""

    hashes: "NDArray[np.uint64]"
    lengths: "NDArray[np.int64]"
    """In characters."""


class View:
    """`text` in `language` (ISO 639 code), for the filters to measure. In languages without spaces, every letter
    and digit is a word, and marks are none."""

    def __init__(self, text: str, language: str):
        self.text = text
        self.language = language
        self.spaceless = language in SPACELESS

    @cached_property
    def lines(self) -> list[str]:
        """Those with something in them."""
        return list(filter(str.strip, self.text.split("\n")))

    @cached_property
    def paragraphs(self) -> list[str]:
        """What stands between empty lines."""
        pieces = (piece.strip("\n") for piece in self.text.split("\n\n"))
        return [piece for piece in pieces if piece]

    @cached_property
    def counts(self) -> Counts:
        if self.spaceless:
            real = len(self._letters)
            return Counts(real, real, real, real - len(_NOT_LETTERS.findall(self._letters)), 0)
        rows = self._rows
        _, words, real, characters, alphabetic, _ = rows.sum(axis=0).tolist()
        stops = int(np.bitwise_or.reduce(rows[:, 5], initial=0))
        return Counts(words, real, characters, alphabetic, stops.bit_count())

    @cached_property
    def words(self) -> Words:
        if self.spaceless:
            return _single_letters(self._letters)
        return self._vocabulary.words_of(self._rows)

    @cached_property
    def _letters(self) -> str:
        return "".join(re.findall(r"\w+", self.text))

    @cached_property
    def _rows(self) -> "NDArray[np.int64]":
        return self._vocabulary.rows_of(self.text)

    @cached_property
    def _vocabulary(self) -> "_Vocabulary":
        """This thread's, for all of one document."""
        if not hasattr(_own, "vocabulary") or _own.vocabulary.is_full:
            _own.vocabulary = _Vocabulary()
        return _own.vocabulary


_own = threading.local()


class _Vocabulary(dict[str, int]):
    """Numbers of pieces between white space, and a row of figures for each."""

    def __init__(self) -> None:
        self._rows = array("q")  # place of its first word, and what Counts counts, stop words as bits
        self._hashes = array("q")
        self._lengths = array("q")
        self._characters = 0

    @property
    def is_full(self) -> bool:
        return len(self) > _MOST_CHUNKS or self._characters > _MOST_CHARACTERS

    def __missing__(self, chunk: str) -> int:
        words = split_chunk(chunk)
        real = [word for word in words if not is_mark(word)]
        stops = 0
        for word in real:
            stops |= _STOP_BITS.get(word.lower(), 0)
        alphabetic = sum(map(has_letter, real))
        self._rows.extend((len(self._hashes), len(words), len(real), sum(map(len, real)), alphabetic, stops))
        self._hashes.extend(map(hash, words))
        self._lengths.extend(map(len, words))
        self._characters += len(chunk)
        self[chunk] = number = len(self)
        return number

    def rows_of(self, text: str) -> "NDArray[np.int64]":
        """int64 of shape (pieces, 6)."""
        numbers = [np.fromiter(map(self.__getitem__, block.split()), np.int64) for block in _blocks(text)]
        rows = np.frombuffer(self._rows, np.int64).reshape(-1, _COLUMNS)
        return rows[numbers[0] if len(numbers) == 1 else np.concatenate(numbers)]

    def words_of(self, rows: "NDArray[np.int64]") -> Words:
        starts, sizes = rows[:, 0], rows[:, 1]
        before = np.cumsum(sizes) - sizes
        places = np.repeat(starts - before, sizes) + np.arange(sizes.sum())
        hashes = np.frombuffer(self._hashes, np.uint64)[places]
        return Words(hashes, np.frombuffer(self._lengths, np.int64)[places])


def _blocks(text: str) -> Iterator[str]:
    """`text` in pieces that end where there is white space."""
    start = 0
    while len(text) - start > _BLOCK:
        space = _SPACE.search(text, start + _BLOCK)
        end = space.start() if space else len(text)
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def _single_letters(letters: str) -> Words:
    codes: Any = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = codes * _ODD
    return Words((hashes ^ (hashes >> np.uint64(29))) * _ODD, np.ones(len(letters), np.int64))
