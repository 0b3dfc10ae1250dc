"""Telephone numbers, where their form, a label or the words around show that they are. Bare rows of digits stay: most are none.

Google's phonenumbers knows every country's plan, but must be told a country, and takes what only looks alike. On our test
cases (tests/corpus/pii/test_pii.py; version 9.0.43, region US, leniency VALID) both find 10 of 10 numbers; it finds none
of 3 that a label shows ("Tel.: 030 1234567"; we: 3), and takes 4 of 94 look-alikes for numbers (we: none). Without a region
it finds 5 of 10. On text full of numbers it reads 0.5 MB/s (we: 35), on prose 11 (we: 370).
"""

import re
from collections.abc import Iterator

from leanpipe.corpus.pii.pattern import Kind, Pattern, Span, is_called_otherwise, is_word, stands_alone

_MOST = 15  # digits of a number with its country code (ITU-T E.164)
_LEAST = 7
_LEAST_BARE = 10  # of one without spaces or hyphens, which may be any number with its sign
# Country codes that are in use (ITU-T E.164, list of assigned codes).
_COUNTRY = re.compile(
    rb"1[2-9]\d\d[2-9]\d{6}"  # North America: area and exchange never start with 0 or 1
    rb"|7[3-9]|2[07]|2(?:1[1-368]|[2-6]\d|9[01789])|3[0-469]|3(?:[578]\d)|4[013-9]|42[013]|5[1-8]|5[09]\d"
    rb"|6[0-6]|6[789]\d|8[1246]|8[05]\d|88\d|9[0-58]|9[679]\d"
)
_FICTIONAL = re.compile(rb"55501\d\d\Z")
_DECIMAL = re.compile(rb"\+\d+\.\d+")
_GROUP = re.compile(rb"\d+")
_FIRST = re.compile(rb"[+(]?\d")
_YEARS = re.compile(rb"(?:19|20)\d\d[ ./-]+(?:19|20)?\d\d\b")

_EXTENSION = re.compile(rb",? ?(?:x|ext\.?) ?\d{2,5}(?![0-9A-Za-z_])")

_NORTH_AMERICAN = (
    rb"(?:(?:00)?1[-. ])?(?:\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[- .][0-9]{4}"
    rb"|[2-9][0-9]{2}-[2-9][0-9]{2}-[0-9]{4}|[2-9][0-9]{2}\.[2-9][0-9]{2}\.[0-9]{4})"
)
_NUMBER = rb"[+(]?[0-9][0-9 ()./-]{5,}[0-9]"
_LABELLED = (
    rb"(?i)\b(?:t(?:e|\xc3\xa9)l(?:(?:e|\xc3\xa9)(?:phone?|fono?|fone|fax))?|phone|fax|mobile|handy|whatsapp|hotline|desk)"
    rb"(?:[.:#]|[ ](?:no|number)\b){1,2}[.:#]?[ \t\n]{0,2}" + _NUMBER
)
_ASKED_TO_CALL = (
    rb"(?i)\b(?:call|ring|phone|reach|dial|text|contact|answering|registered|whatsapp)"
    rb"(?:[ ](?:me|us|him|her|them|back|my|this|the|number|no\.?|mobile|phone|on|at|under|is)){0,4}[ ]"
    + _NUMBER
)
_CALLED_AFTER = _NUMBER + rb"(?:x[0-9]{2,5})?[ ]?[-,]?[ ]?(?i:office|fax|mobile|cell|phone|desk)\b"


def _check_international(data: bytes, start: int, end: int) -> Iterator[Span]:
    digits, end = _number(data, start, end)
    separators = end - start - len(digits) - 1
    least = _LEAST if separators else _LEAST_BARE
    if len(digits) < least or is_word(data, start - 1) or _DECIMAL.fullmatch(data, start, end):
        return
    north_american = separators > 2 and len(digits) == 11 and digits.startswith(b"1")
    if _COUNTRY.match(digits) or north_american:
        yield from _unless_fictional(data, digits, start, end)


def _check_north_american(data: bytes, start: int, end: int) -> Iterator[Span]:
    digits = b"".join(_GROUP.findall(data, start, end))[-10:]
    services = digits[1:3] == b"11" or digits[4:6] == b"11"
    if (
        stands_alone(data, start, _with_extension(data, end))
        and data[start - 1 : start] != b"/"
        and not services
        and not is_called_otherwise(data, start)
    ):
        yield from _unless_fictional(data, digits, start, end)


def _check_labelled(data: bytes, start: int, end: int) -> Iterator[Span]:
    first = _FIRST.search(data, start, end)
    start = first.start() if first else end
    digits, end = _number(data, start, end)
    if (
        len(digits) >= _LEAST
        and not is_word(data, _with_extension(data, end))
        and not _YEARS.match(data, start)
    ):
        yield from _unless_fictional(data, digits, start, end)


def _check_asked(data: bytes, start: int, end: int) -> Iterator[Span]:
    """What someone is asked to call, in groups as people write them, or long."""
    yield from (span for span in _check_labelled(data, start, end) if _is_written_as_number(data, *span))


def _check_called_after(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A number before "office", "-Fax" and the like, as lists of people have it."""
    digits, stop = _number(data, start, end)
    stop = _with_extension(data, stop)
    alone = not is_word(data, start - 1) and not is_word(data, stop) and not _YEARS.match(data, start)
    if alone and len(digits) >= _LEAST and _is_written_as_number(data, start, stop):
        yield from _unless_fictional(data, digits, start, stop)


def _is_written_as_number(data: bytes, start: int, end: int) -> bool:
    groups = _GROUP.findall(data, start, end)
    return len(groups) > 1 or len(groups[0]) >= _LEAST_BARE


def _with_extension(data: bytes, end: int) -> int:
    """Where the number ends, with the extension that follows it (x123)."""
    found = _EXTENSION.match(data, end)
    return found.end() if found else end


def _number(data: bytes, start: int, end: int) -> tuple[bytes, int]:
    """The digits of as many groups as a telephone number can have, and where they end."""
    digits, last = b"", start
    for group in _GROUP.finditer(data, start, end):
        if len(digits) + len(group.group()) > _MOST:
            break
        digits, last = digits + group.group(), group.end()
    return digits, last


def _unless_fictional(data: bytes, digits: bytes, start: int, end: int) -> Iterator[Span]:
    """555-0100 to 555-0199 belong to nobody (NANPA)."""
    if not _FICTIONAL.search(digits):
        yield start, max(end, _with_extension(data, end))


KIND = Kind(
    "phone",
    b"<PHONE_NUMBER>",
    b"202-555-0100",
    (
        Pattern(rb"\+[1-9](?:[ ().-]{0,2}[0-9]){7,}", _check_international),
        Pattern(_NORTH_AMERICAN, _check_north_american),
        Pattern(_LABELLED, _check_labelled),
        Pattern(_ASKED_TO_CALL, _check_asked),
        Pattern(_CALLED_AFTER, _check_called_after),
    ),
)
