"""What every HTML tag means for the text of a page, as numbers that numpy can look up for all tags of a page at once."""

from bisect import bisect_left
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Numbers: TypeAlias = Any
"""An array of numpy, of which no more is known."""


class Break(IntEnum):
    """How a tag parts the text before it from the text after it."""

    NONE = 0
    """Not at all: both stand in one line."""
    LINE = 1
    """The text goes on in a line of its own."""
    PARAGRAPH = 2
    """An empty line stands between them."""


_PARAGRAPHS = (
    "p blockquote address figure figcaption fieldset hr tbody thead tfoot body h1 h2 h3 h4 h5 h6 pre div section article main "
    "aside header footer nav form ul ol dl table dialog menu details"
)
_LINES = "dt dd tr option caption summary legend center li"
_INLINE = "td th a br"
_VOID = "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr"
_RAW = "script style xmp iframe noembed noframes plaintext"
"""Elements in which `<` begins no tag."""
_SILENT = f"{_RAW} head template svg object datalist canvas audio video math"
"""Elements whose text no reader sees."""
_UNREAD = "noscript noframes select textarea button"
"""Elements that have text, but none of the page's own."""
_ATTRIBUTED = "div section article main aside header footer nav form ul ol dl table dialog menu details td figure body blockquote"
"""Elements whose class, id and role say something of what is in them."""

NAMES = tuple(
    sorted(
        {
            *_PARAGRAPHS.split(),
            *_LINES.split(),
            *_INLINE.split(),
            *_VOID.split(),
            *_SILENT.split(),
            *_UNREAD.split(),
        }
    )
)
"""Every tag that means something; the code of a tag is its place here and one, that of all others is 0."""
CODE = {name: number for number, name in enumerate(NAMES, 1)}


def _flags(names: str) -> Numbers:
    flags: Numbers = np.zeros(len(NAMES) + 1, dtype=bool)
    flags[[CODE[name] for name in names.split()]] = True
    return flags


BREAK = (2 * _flags(_PARAGRAPHS) + _flags(_LINES)).astype(np.int8)
VOID = _flags(_VOID)
RAW = _flags(_RAW)
UNREAD = _flags(_UNREAD)
SILENT = _flags(_SILENT) & ~UNREAD
ATTRIBUTED = _flags(_ATTRIBUTED)

_WIDTH = 7  # bytes of a name that are looked at: no two names begin with the same seven
_KEYS = np.array([int.from_bytes(name.encode()[:_WIDTH], "little") for name in NAMES], dtype=np.uint64)
_SHIFT = np.uint64(64 - 12)


def _collision_free() -> tuple[np.uint64, Numbers]:
    """A factor that takes every name to a place of its own in a table of 4,096, and that table of codes."""
    for factor in range(0x9E3779B97F4A7C15, 1 << 64, 2):
        places = _KEYS * np.uint64(factor) >> _SHIFT
        if len(np.unique(places)) == len(NAMES):
            table: Numbers = np.zeros(1 << 12, dtype=np.intp)
            table[places] = np.arange(1, len(NAMES) + 1)
            return np.uint64(factor), table
    raise AssertionError("no factor parts the names of the tags")


_FACTOR, _TABLE = _collision_free()
_KEY_OF_CODE: Numbers = np.append(np.uint64(0), _KEYS)
_SLASH, _LESS, _GREATER, _BANG, _DASH = b"/<>!-"


class Tags(NamedTuple):
    """The tags of a page, in their order."""

    code: Numbers
    """See `NAMES`."""
    delta: Numbers
    """1 where an element begins, -1 where one ends, 0 for an element that has no end."""
    start: Numbers
    """Where the tag begins."""
    end: Numbers
    """Where the text after it begins."""
    until: Numbers
    """Where the text after it ends."""


def read_tags(data: bytes) -> Tags:
    """Find all tags of what a parser wrote of its tree: well nested, `<` and `>` escaped in text and in attributes."""
    buffer = np.frombuffer(data, dtype=np.uint8)
    start = (buffer == _LESS).nonzero()[0]
    greater: Numbers = np.append((buffer == _GREATER).nonzero()[0], len(data) - 1)
    end = greater[np.minimum(greater.searchsorted(start), len(greater) - 1)] + 1
    eight = np.ndarray(len(data) + 1, "<u8", data + bytes(8), strides=(1,))[start + 1]
    first = eight & _LOW
    closes, comments = first == _SLASH, first == _BANG
    code = _codes(np.where(closes, eight >> np.uint64(8), eight))
    if inner := _inside_raw(data, start, end, code, closes, comments):
        outer: Numbers = np.ones(len(start), dtype=bool)
        for first, last in inner:
            outer[first:last] = False
        start, end, code, closes, comments = (a[outer] for a in (start, end, code, closes, comments))
    until: Numbers = np.append(start[1:], len(data))[: len(start)]
    delta = np.where(closes, -1, ~(VOID[code] | comments)).astype(np.int8)
    return Tags(code, delta, start, np.minimum(end, until), until)


_EACH = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x80) * _EACH
_LAST = np.uint64(0x80 << 56)
_LOW = np.uint64(0xFF)
_ZERO, _GREATERS = np.uint64(ord("0")) * _EACH, np.uint64(_GREATER) * _EACH


def _codes(eight: Numbers) -> Numbers:
    """The codes of the names with which eight bytes begin, as one number.

    A name ends before the first byte that is `>` or less than `0`, as a space is; which one that is tells the lowest high bit
    (Hacker's Delight, "Find First 0-Byte").
    """
    greater = eight ^ _GREATERS
    ends = ((eight - _ZERO) & ~eight | (greater - _EACH) & ~greater) & _HIGH | _LAST
    keys = eight & (((ends & (~ends + np.uint64(1))) >> np.uint64(7)) - np.uint64(1))
    codes = _TABLE[keys * _FACTOR >> _SHIFT]
    codes[_KEY_OF_CODE[codes] != keys] = 0
    return codes


def _inside_raw(
    data: bytes,
    start: Numbers,
    end: Numbers,
    code: Numbers,
    closes: Numbers,
    comments: Numbers,
) -> list[tuple[int, int]]:
    """Which tags stand in comments and in scripts, and so are none. Moves the ends of comments to where they are."""
    found = []
    begun = np.flatnonzero(comments | (RAW[code] & ~closes))
    begun = begun[~_holds_no_tag(data, begun, start, end, code, closes, comments)].tolist()
    ends: dict[Any, list[int]] = {}
    inside = 0  # tags before this one are in something raw
    for tag in begun:
        if tag < inside:
            continue
        if comments[tag]:
            stop = data.find(b"-->", int(start[tag]))
            stop = stop + 3 if stop >= 0 else len(data)
            end[tag] = stop
            inside = int(start.searchsorted(stop))
        else:
            if (own := ends.get(code[tag])) is None:
                own = ends[code[tag]] = np.flatnonzero(closes & (code == code[tag])).tolist()
            place = bisect_left(own, tag)
            inside = own[place] if place < len(own) else len(start)
        if inside > tag + 1:
            found.append((tag + 1, inside))
    return found


def _holds_no_tag(
    data: bytes,
    begun: Numbers,
    start: Numbers,
    end: Numbers,
    code: Numbers,
    closes: Numbers,
    comments: Numbers,
) -> Numbers:
    """Whether comments and scripts, as most do, end before the next tag, or with it: they are left as they are."""
    buffer = np.frombuffer(data, dtype=np.uint8)
    following: Numbers = np.minimum(begun + 1, len(start) - 1)
    last = end[begun]
    ended = (buffer[last - 2] == _DASH) & (buffer[last - 3] == _DASH) & (last <= start[following])
    closed = closes[following] & (code[following] == code[begun])
    return np.where(comments[begun], ended, closed)
