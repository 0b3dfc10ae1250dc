"""Social security numbers of the USA."""

from collections.abc import Iterator

from leanpipe.corpus.pii.pattern import Kind, Pattern, Span, is_called_otherwise, stands_alone


def _check(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Numbers that can have been given out: no area 000, 666 or from 900 on, no group 00, no serial 0000 (SSA)."""
    area, group, serial = data[start:end].split(b"-")
    possible = area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"
    if possible and stands_alone(data, start, end) and not is_called_otherwise(data, start):
        yield start, end


KIND = Kind("ssn", b"<SSN>", b"000-00-0000", (Pattern(rb"[0-9]{3}-[0-9]{2}-[0-9]{4}", _check),))
