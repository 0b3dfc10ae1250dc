"""A document as the filters see it: what they measure is counted once, whatever number of them asks.

A text is cut at white space, and what a piece holds is looked up in a table that grows from document to document:
most pieces have been met before, so the rules of `words` run for a few in a hundred, and numpy does the rest.
"""

import re
import threading
from array import array
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from leanpipe.corpus.filters.language import SPACELESS
from leanpipe.corpus.filters.word_split import STOP_WORDS, split_chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REAL, _ALPHABETIC, _FIRST_STOP = 1, 2, 4
_STOP_BITS = {word: _FIRST_STOP << place for place, word in enumerate(STOP_WORDS)}
_LONGEST_STOP = max(map(len, STOP_WORDS))
_MOST_CHUNKS, _MOST_CHARACTERS = 1 << 18, 1 << 23  # of a table, before a new one is begun: about 80 MB
_BLOCK = 1 << 20  # characters of a text that are cut at once, so that a huge one is not held in pieces
_SPACE = re.compile(r"\s")
_NOT_LETTERS = re.compile(r"[\d_]")


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

    numbers: "NDArray[np.int64]"
    """Equal for equal words of this text, and for no others; below 2^32."""
    lengths: "NDArray[np.int64]"
    """In characters."""
    kinds: "NDArray[np.int64]"
    """Sums of `_REAL`, `_ALPHABETIC` and the bits of stop words."""


class DocumentStatistics:
    """What the filters measure of `text` in `language` (ISO 639 code), each figure counted once.

    In languages without spaces, every letter and digit is a word, and marks are none.
    """

    def __init__(self, text: str, language: str):
        self.text = text
        self.language = language
        self.spaceless = language in SPACELESS

    @cached_property
    def lines(self) -> list[str]:
        """List the lines with something in them."""
        return list(filter(str.strip, self.text.split("\n")))

    @cached_property
    def paragraphs(self) -> list[str]:
        """List what stands between empty lines."""
        pieces = (piece.strip("\n") for piece in self.text.split("\n\n"))
        return [piece for piece in pieces if piece]

    @cached_property
    def least_words(self) -> int:
        """Count words with a letter or digit from below, if the text is so long that it is better not to count all; else 0."""
        if len(self.text) <= _BLOCK or self.spaceless:
            return 0
        return sum(sum(map(str.isalnum, block.split())) for block in _blocks(self.text))

    @cached_property
    def counts(self) -> Counts:
        """Count the words, and their characters, by kind."""
        words = self.words
        real = (words.kinds & _REAL).astype(np.bool_)
        return Counts(
            words=len(real),
            real=int(np.count_nonzero(real)),
            characters=int(words.lengths @ real),
            alphabetic=int(np.count_nonzero(words.kinds & _ALPHABETIC)),
            stop_words=(int(np.bitwise_or.reduce(words.kinds, initial=0)) // _FIRST_STOP).bit_count(),
        )

    @cached_property
    def words(self) -> Words:
        """Find the words in order."""
        return _letters(self.text) if self.spaceless else _vocabulary().words(self.text)


_own = threading.local()


def _vocabulary() -> "_Vocabulary":
    """Return this thread's table of pieces."""
    if not hasattr(_own, "vocabulary") or _own.vocabulary.is_full:
        _own.vocabulary = _Vocabulary()
    return _own.vocabulary


class _Vocabulary(dict[str, tuple[int, ...]]):
    """Holds, for each piece between white space, the numbers of the words that it is made of."""

    def __init__(self) -> None:
        self._numbers = _Numbers()
        self._characters = 0

    @property
    def is_full(self) -> bool:
        return len(self) > _MOST_CHUNKS or self._characters > _MOST_CHARACTERS

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        self._characters += len(chunk)
        self[chunk] = numbers = tuple(map(self._numbers.__getitem__, split_chunk(chunk)))
        return numbers

    def words(self, text: str) -> Words:
        """Find the words of `text`, in memory of a few times its size."""
        chunks = chain.from_iterable(map(str.split, _blocks(text)))
        numbers = np.fromiter(chain.from_iterable(map(self.__getitem__, chunks)), np.int64)
        lengths, kinds = self._numbers.lengths, self._numbers.kinds
        return Words(
            numbers, np.frombuffer(lengths, np.int64)[numbers], np.frombuffer(kinds, np.int64)[numbers]
        )


class _Numbers(dict[str, int]):
    """The numbers of words, from 0, and what is known of each."""

    def __init__(self) -> None:
        self.lengths, self.kinds = array("q"), array("q")

    def __missing__(self, word: str) -> int:
        self.lengths.append(len(word))
        self.kinds.append(_kind(word))
        self[word] = number = len(self)
        return number


def _kind(word: str) -> int:
    if word.isalpha():
        return _REAL | _ALPHABETIC | (_STOP_BITS.get(word.lower(), 0) if len(word) <= _LONGEST_STOP else 0)
    if any(map(str.isalpha, word)):
        return _REAL | _ALPHABETIC
    return _REAL if any(map(str.isalnum, word)) else 0


def _blocks(text: str) -> Iterator[str]:
    """`text` in pieces that end where there is white space."""
    start = 0
    while len(text) - start > _BLOCK:
        space = _SPACE.search(text, start + _BLOCK)
        end = space.start() if space else len(text)
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def _letters(text: str) -> Words:
    """Every letter and digit of `text` as a word."""
    letters = "".join(re.findall(r"\w+", text))
    codes: Any = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    kinds = np.full(len(letters), _REAL | _ALPHABETIC)
    kinds[[found.start() for found in _NOT_LETTERS.finditer(letters)]] = _REAL
    return Words(codes, np.ones(len(letters), np.int64), kinds)
