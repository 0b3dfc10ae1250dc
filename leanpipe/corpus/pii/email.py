"""E-mail addresses."""

import re
from collections.abc import Iterator

from leanpipe.corpus.pii.pattern import Kind, Pattern, Span

# Latin, Greek and Cyrillic letters beyond ASCII are two bytes from C3 to D4. Scripts without spaces are not among
# them: they may stand right before an address that they are no part of.
_LETTER = rb"[A-Za-z0-9]|[\xc3-\xd4][\x80-\xbf]"
_LOCAL = rb"(?:[._%+-]|" + _LETTER + rb")"
_LABEL = rb"(?:-|" + _LETTER + rb")+"
_ADDRESS = (
    rb"(?:_|"
    + _LETTER
    + rb")"
    + _LOCAL
    + rb"*(?:'"
    + _LOCAL
    + rb"+)*@"
    + _LABEL
    + rb"(?:\."
    + _LABEL
    + rb")+"
)

_TOP = re.compile(rb"xn--[a-z0-9]+|(?:[a-z]|[\xc3-\xd4][\x80-\xbf]){2,24}(?![a-z0-9])", re.IGNORECASE)
_FILES = frozenset(b"png jpg jpeg gif svg webp ico css js ts py html pdf txt json".split())  # icon@2x.png
_UNITS = frozenset(  # of systemd: getty@tty1.service
    b"service timer socket target mount automount device path slice scope swap".split()
)
_PASSWORD = re.compile(rb"://[^\s/@]*:\Z")  # what stands before the password in ://user:password@host
_BEFORE = 64  # bytes that are looked at
_RESERVED = re.compile(rb"(?:^|\.)(?:example(?:\.(?:com|org|net))?|test|invalid|localhost)$", re.IGNORECASE)


def _check(data: bytes, start: int, end: int) -> Iterator[Span]:
    local, _, domain = data[start:end].rpartition(b"@")
    name, _, last = domain.rpartition(b".")
    top = _TOP.match(last)
    if (
        not top or top.group().lower() in _FILES | _UNITS or local == b"git"
    ):  # git@host is how repositories are named
        return
    is_password = bool(_PASSWORD.search(data[max(0, start - _BEFORE) : start]))
    if not is_password and not _RESERVED.search(name + b"." + top.group()):
        yield start, end - len(last) + top.end()


KIND = Kind("email", b"<EMAIL>", b"email@example.com", (Pattern(_ADDRESS, _check),))
