"""What a kind of personal data consists of: patterns that find candidates, and checks that judge them."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

Span = tuple[int, int]
"""Start and end in the UTF-8 bytes of a text."""

Check = Callable[[bytes, int, int], Iterable[Span]]
"""(text, start, end of a candidate) → what of it is to be replaced: nothing, all of it, or parts."""

_OTHERWISE = re.compile(  # what has numbers that look like a person's, right before the number
    rb"(?i)\b(?:licen[cs]e|passport|permit|order|invoice|part|item|serial|model|ticket|tracking|isbn|issn|zip|version|case|claim)"
    rb"(?:[ ](?:number|num|no\.?|nr\.?|id|code|is|was))*[\s:#.]{0,4}\Z"
)
_BEFORE = 50  # bytes
_DIGITS = frozenset(b"0123456789")
_WORD = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")


def match_whole(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Accept every candidate whole: the check of a pattern that needs none."""
    yield start, end


class Pattern(NamedTuple):
    """A regular expression that finds candidates, and the check that judges them."""

    regex: bytes
    """RE2 on bytes, without groups that capture. Its match is a candidate."""
    check: Check = match_whole


class Kind(NamedTuple):
    """A kind of personal data: how it is found, and what stands in its place."""

    name: str
    """The field of `RedactConfig` that switches it."""
    tag: bytes
    example: bytes
    """A stand-in that looks like the thing, belongs to nobody, and is not taken for one again."""
    patterns: tuple[Pattern, ...]


def is_digit(data: bytes, at: int) -> bool:
    """Whether there is a digit at this byte; before and after the text there is none."""
    return 0 <= at < len(data) and data[at] in _DIGITS


def is_word(data: bytes, at: int) -> bool:
    """Whether there is an ASCII letter, a digit or an underscore at this byte."""
    return 0 <= at < len(data) and data[at] in _WORD


def stands_alone(data: bytes, start: int, end: int) -> bool:
    """Whether a candidate is no part of a longer word or number: 0.5…, …-1234, 12.34.…"""
    if is_word(data, start - 1) or is_word(data, end):
        return False
    before, after = data[start - 1 : start], data[end : end + 1]
    if (before == b"." and is_digit(data, start - 2)) or (before == b"-" and is_word(data, start - 2)):
        return False
    return not (after in (b".", b"-") and is_digit(data, end + 1))


def is_called_otherwise(data: bytes, start: int) -> bool:
    """Whether the words before a number say that it is something else, such as a licence or an order."""
    return bool(_OTHERWISE.search(data[max(0, start - _BEFORE) : start]))


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """Sort spans, and make one of those that overlap."""
    apart: list[Span] = []
    for start, end in sorted(spans):
        if apart and start < apart[-1][1]:
            apart[-1] = apart[-1][0], max(end, apart[-1][1])
        else:
            apart.append((start, end))
    return apart


def replace_spans(data: bytes, spans: Iterable[Span], by: bytes) -> bytes:
    """Write `by` in the place of every span; `spans` are in order and apart."""
    parts: list[bytes] = []
    done = 0
    for start, end in spans:
        parts += (data[done:start], by)
        done = end
    return b"".join([*parts, data[done:]])
