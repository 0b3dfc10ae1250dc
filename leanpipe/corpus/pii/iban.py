"""International bank account numbers."""

import re
from collections.abc import Iterator

from leanpipe.corpus.pii.pattern import Kind, Pattern, Span, is_word

_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
"""Characters of an account number by country (SWIFT, IBAN Registry)."""

_START = re.compile(rb"(?:^|(?<=[ -]))[A-Za-z]{2}\d{2}")
_LONGEST = 2 * max(_LENGTHS.values())  # with its separators


def _check(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The accounts in a run of letters and digits; one may follow other groups, or be followed by them."""
    if is_word(data, start - 1):
        return
    for match in _START.finditer(data[start:end]):
        first = start + match.start()
        last = _end(data, first, min(end, first + _LONGEST))
        if last and not is_word(data, last):
            yield first, last


def _end(data: bytes, start: int, end: int) -> int:
    """Find where the account that starts here ends; 0 if none does."""
    length = _LENGTHS.get(data[start : start + 2].decode().upper(), 0)
    positions = [at for at in range(start, end) if data[at] not in b" -"][:length]
    number = bytes(data[at] for at in positions)
    if number != number.upper():  # capitals and small letters by turns, or hyphens as in a UUID: no account
        if number != number.lower() or b"-" in data[start : positions[-1] + 1]:
            return 0
        number = number.upper()
    return positions[-1] + 1 if length and len(number) == length and _passes_mod97(number) else 0


def _passes_mod97(number: bytes) -> bool:
    """Whether the check digits fit (ISO 7064, MOD 97-10)."""
    moved = number[4:] + number[:4]
    return int("".join(str(int(chr(character), 36)) for character in moved)) % 97 == 1


_CANDIDATE = rb"(?:[A-Z]{2}[0-9]{2}[ -]?[A-Z0-9]{4}(?:[ -]?[A-Z0-9]){7,}|[a-z]{2}[0-9]{2} ?[a-z0-9]{4}(?: ?[a-z0-9]){7,})"

KIND = Kind("iban", b"<IBAN>", b"XX00 0000 0000 0000", (Pattern(_CANDIDATE, _check),))
