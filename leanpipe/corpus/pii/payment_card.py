"""Numbers of payment cards."""

import itertools
import re
from collections.abc import Iterator

from leanpipe.corpus.pii.pattern import Kind, Pattern, Span, is_called_otherwise, stands_alone

# Issuers by prefix, and the lengths of their numbers (ISO/IEC 7812; the issuers' own pages).
_ISSUED = re.compile(
    rb"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    rb"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    rb"|3[47]\d{13}"  # American Express
    rb"|(?:30[0-5]\d|36\d\d|3[89]\d\d)\d{10}(?:\d\d)?"  # Diners Club
    rb"|(?:6011|64[4-9]\d|65\d\d)\d{12}"  # Discover
    rb"|35\d{14}|(?:1800|2131)\d{11}"  # JCB, and its older numbers
    rb"|62\d{14}(?:\d{3})?"  # UnionPay
)
_MAESTRO = re.compile(rb"(?:5018|5020|5038|5[678]\d\d|6304|67\d\d)\d{8,15}")
"""Of twelve digits and more, and so many numbers have such prefixes that a word must tell a card."""
_CALLED = re.compile(
    rb"(?i)\b(?:credit|debit|card|cc|visa|maestro|mastercard|payment|charge|bank|atm|karte|kreditkarte|carte|tarjeta|carta)"
)
_CONTEXT = 120  # bytes before and after a number in which that word is looked for
_GROUPS = frozenset({(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4)})
_GROUP = re.compile(rb"\d+")
_MOST_GROUPS = 7  # a card's five, and one on each side: more of them are a table
_LONGEST = 19


def _check(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Every group of the candidate that is a card's number, else all groups together that are one."""
    groups = [match.span() for match in _GROUP.finditer(data, start, end)]
    for first, last in groups:
        if _is_card(data, first, last):
            yield first, last
    if len(groups) > _MOST_GROUPS:
        return
    for first in range(len(groups)):
        for last in range(first + 3, min(first + 5, len(groups)) + 1):
            part = groups[first:last]
            if _grouped(data, part) and _is_card(data, part[0][0], part[-1][1]):
                yield part[0][0], part[-1][1]


def _grouped(data: bytes, groups: list[Span]) -> bool:
    separators = {data[end] for (_, end), _ in itertools.pairwise(groups)}
    return len(separators) == 1 and tuple(end - start for start, end in groups) in _GROUPS


def _is_card(data: bytes, start: int, end: int) -> bool:
    if not 12 <= end - start <= _LONGEST + 4 or not stands_alone(data, start, end):
        return False
    digits = data[start:end].replace(b" ", b"").replace(b"-", b"")
    if not _passes_luhn(digits) or is_called_otherwise(data, start):
        return False
    if _ISSUED.fullmatch(digits):
        return True
    around = data[max(0, start - _CONTEXT) : start] + b" " + data[end : end + _CONTEXT]
    return bool(_MAESTRO.fullmatch(digits)) and bool(_CALLED.search(around))


def _passes_luhn(digits: bytes) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    values = [digit - ord("0") for digit in reversed(digits)]
    doubled = (2 * value - 9 * (value > 4) for value in values[1::2])
    return (sum(values[::2]) + sum(doubled)) % 10 == 0


KIND = Kind(
    "card", b"<CARD_NUMBER>", b"0000 0000 0000 0000", (Pattern(rb"[1-6][0-9](?:[ -]?[0-9]){10,}", _check),)
)
