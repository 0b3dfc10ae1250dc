"""Words as 64-bit numbers, and runs of words as one number each: what repetitions and overlaps are found by.

A word is a run of letters, digits and their marks, whatever its case; a letter of a script without spaces (Chinese,
Japanese, Thai, Khmer, …) is a word of its own. Nothing is done in Python per word: the words of 256 Ki characters are
found and hashed in a few numpy operations, eight bytes of every word at a time.
"""

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 1 << 18  # characters at once: what numpy makes of them stays in the processor's cache
_BREAK = re.compile(r"[\s\u3000-\u3002\uff0c]")  # never within a word
_BLOCK = 8  # bytes of a word that are mixed in at once
_LONGEST = 8 * _BLOCK  # bytes; longer words are rare, and hashed one by one
_ODD = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = (
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)  # splitmix64, Steele et al. 2014
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_KEEP = np.array([(1 << 8 * size) - 1 for size in range(_BLOCK + 1)], np.uint64)  # the first bytes of a block

_SPACELESS = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai, Lao; Burmese; Khmer
    *(
        (0x3005, 0x312F),
        (0x31A0, 0x9FFF),
        (0xF900, 0xFAFF),
        (0xFF66, 0xFF9D),
        (0x20000, 0x3FFFF),
    ),  # Chinese, Japanese
)
_LAST = 0x40000  # no letter lies beyond
_NOT_MARKS = (range(0xFE00, 0xFE10), range(0x20D0, 0x2100))  # variation selectors and frames, as of emoji
_WORD, _ALONE = 1, 2  # kinds of characters; 0 is what separates words

_LOWER = bytes(ord(chr(byte).lower()) if byte < 128 and chr(byte).isalnum() else 0 for byte in range(256))
"""An ASCII byte in lower case, or 0 if it is no part of a word."""


class _Words(NamedTuple):
    """The words of a text: bytes `starts[i]` to `ends[i]` of `data`, characters `first[i]` to `last[i]` of the text."""

    data: bytes
    starts: "NDArray[np.int64]"
    ends: "NDArray[np.int64]"
    first: "NDArray[np.int64]"
    last: "NDArray[np.int64]"


def word_hashes(text: str) -> "NDArray[np.uint64]":
    """Return a number for each word, the same in whatever case, place and text it stands: uint64 of shape (words,)."""
    found = [_hash(_find(chunk)) for _, chunk in _chunks(text)]
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def word_spans(text: str) -> "NDArray[np.int64]":
    """Return where each word that `word_hashes` hashes starts and ends, in characters: int64 of shape (words, 2)."""
    found = [np.stack(_find(chunk)[3:], axis=1) + start for start, chunk in _chunks(text)]
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def shingles(hashes: "NDArray[np.uint64]", size: int) -> "NDArray[np.uint64]":
    """Return one number for every run of `size` words: uint64 of shape (words - size + 1,).

    Fewer words than that are one run, whose number no longer run has; no words have none.
    """
    length = min(size, len(hashes))
    return _mix(_sums(hashes, length) + np.uint64(length)) if length else hashes[:0]


def shingles_of_sizes(hashes: "NDArray[np.uint64]", sizes: Sequence[int]) -> "NDArray[np.uint64]":
    """Return what `shingles` gives for each of `sizes`, one after the other, but faster.

    `sizes` are in ascending order, and none is larger than the number of words.
    """
    sums, done = hashes, 1
    parts = [hashes[:0]]
    for size in sizes:
        sums = _sums(hashes, size) if size > 2 * done else _extended(hashes, sums, done, size)
        parts.append(sums + np.uint64(size))
        done = size
    return _mix(np.concatenate(parts))


def _sums(hashes: "NDArray[np.uint64]", size: int) -> "NDArray[np.uint64]":
    """Return for every run of `size` words the value of the polynomial with their hashes as coefficients."""
    sums, done = hashes, 1
    for bit in bin(size)[3:]:  # a run of 2k words is two of k, one of 2k + 1 a word more
        sums = sums[:-done] * _power(done) + sums[done:]
        done *= 2
        if bit == "1":
            sums = _extended(hashes, sums, done, done + 1)
            done += 1
    return sums


def _extended(hashes: Any, sums: Any, done: int, size: int) -> "NDArray[np.uint64]":
    """The sums of runs of `size` words, from those of the first `done` of them."""
    for length in range(done, size):
        sums = sums[:-1] * _ODD + hashes[length:]
    return sums


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """(start, part) of the text, cut where a word ends."""
    start = 0
    while start < len(text):
        found = _BREAK.search(text, start + _CHUNK)
        end = found.end() if found else len(text)
        yield start, text[start:end]
        start = end


def _find(text: str) -> _Words:
    if text.isascii():
        data = text.encode().translate(_LOWER)
        starts, ends = _runs(np.frombuffer(data, np.uint8))
        return _Words(data, starts, ends, starts, ends)
    # The one letter that grows when it is made small would move all that follows it.
    text = text.replace("\u0130", "i").lower()
    kinds = _kinds()[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")]
    first, last = _runs(kinds) if not (kinds == _ALONE).any() else _runs_alone(kinds)
    data = text.encode("utf-8", "surrogatepass")
    at = np.flatnonzero(
        (np.frombuffer(data + b"\0", np.uint8) & 0xC0) != 0x80
    )  # the byte each character starts at
    return _Words(data, at[first], at[last], first, last)


def _runs(kinds: "NDArray[np.uint8]") -> tuple[Any, Any]:
    """Find where runs of characters that are not 0 start and end."""
    inside: Any = np.zeros(len(kinds) + 2, np.bool_)
    np.not_equal(kinds, 0, out=inside[1:-1])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return edges[0::2], edges[1::2]


def _runs_alone(kinds: "NDArray[np.uint8]") -> tuple[Any, Any]:
    """Find where runs start and end if some characters are runs of their own."""
    padded: Any = np.zeros(len(kinds) + 2, np.uint8)
    padded[1:-1] = kinds
    edge = (padded[1:] != padded[:-1]) | (padded[1:] == _ALONE)
    starts = np.flatnonzero(edge & (padded[1:] != 0))
    return starts, np.flatnonzero(edge & (padded[:-1] != 0))


def _hash(words: _Words) -> "NDArray[np.uint64]":
    """splitmix64's steps over the eight-byte blocks of each word, all words at once."""
    lengths = words.ends - words.starts
    data = words.data + bytes(_BLOCK)
    blocks: Any = np.ndarray((len(data) - _BLOCK + 1,), "<u8", data, strides=(1,))  # one from every byte on
    hashes = _mix(_read(blocks, words.starts, lengths) + _ODD * lengths.astype(np.uint64))
    longer = np.flatnonzero(lengths > _BLOCK)
    for done in range(_BLOCK, _LONGEST, _BLOCK):
        if not len(longer):
            return hashes
        block = _read(blocks, words.starts[longer] + done, lengths[longer] - done)
        hashes[longer] = _mix((hashes[longer] ^ block) * _ODD)
        longer = longer[lengths[longer] > done + _BLOCK]
    for word in longer:
        rest = words.data[words.starts[word] : words.ends[word]]
        hashes[word] = int.from_bytes(hashlib.blake2b(rest, digest_size=8).digest(), "little")
    return hashes


def _read(blocks: Any, starts: Any, lengths: Any) -> "NDArray[np.uint64]":
    """The eight bytes from each start on, those past the word's end made 0."""
    return blocks[starts] & _KEEP[np.minimum(lengths, _BLOCK)]


def _mix(values: "NDArray[np.uint64]") -> "NDArray[np.uint64]":
    """Every bit of the result depends on every bit of the value, and no two values have the same result."""
    values = values ^ (values >> _SHIFTS[0])
    values *= _FIRST
    values ^= values >> _SHIFTS[1]
    values *= _SECOND
    values ^= values >> _SHIFTS[2]
    return values


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(_ODD), exponent, 1 << 64))


@cache
def _kinds() -> "NDArray[np.uint8]":
    """What each code point is: 0 between words, `_WORD` or `_ALONE`."""
    kinds: Any = np.zeros(sys.maxunicode + 1, np.uint8)
    letters = (chr(code).isalnum() or unicodedata.category(chr(code))[0] == "M" for code in range(_LAST))
    kinds[:_LAST] = np.fromiter(letters, np.uint8, _LAST)
    for codes in _NOT_MARKS:
        kinds[codes.start : codes.stop] = 0
    for first, last in _SPACELESS:
        kinds[first : last + 1] *= _ALONE
    return kinds
