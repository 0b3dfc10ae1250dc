"""JSON that is not one value to a line: an array, an object that holds lists of rows, values printed over many lines.

A file is scanned for where its rows begin and end, and each is parsed by itself, so that of a list no more is in memory than a
document may be long. An object is parsed as a whole up to that length; of a longer one the lists of objects in it are read.
What one stray quote spoils ends where the next row seems to begin.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from leanpipe.corpus.readers.stream import TOO_LONG, BadFile

_CHUNK = 1 << 20
_OUTSIDE, _IN_STRING = re.compile(rb'["\[\]{}]'), re.compile(rb'["\\]')
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OPEN, _CLOSE = b"{[", b"}]"
_SCALAR_END = re.compile(rb"[\s,\[\]{}]")
# Commas, a byte order mark, and what RFC 7464 puts before each value.
_BETWEEN = re.compile(rb"[\s,\x1e\xef\xbb\xbf]*")
_NEXT_ROW = re.compile(rb'[}\n,]\s*+,?\s*+(?=\{\s*+")')
_READ_AGAIN = 8  # times the file: what may be scanned once more after rows that do not end
_DEPTH = 3  # objects within each other in which a list of rows is looked for


class JsonRow(NamedTuple):
    """One row, as it lies in its file."""

    data: bytes
    fault: str = ""
    """Why there are no `data`."""
    listed: bool = False
    """Whether it stands in a list."""


class _TooLongError(Exception):
    """Raised where a value is longer than a document may be."""


class JsonScanner:
    """Finds the rows of a JSON file, from a stream."""

    def __init__(self, stream: Any, limit: int):
        """`limit` is how many bytes a row may have."""
        self._stream, self._limit = stream, limit
        self._buffer = b""
        self._began = self._at = 0  # where in it the current row begins, and what is looked at next
        self._depth, self._in_string = 0, False
        self._read = self._again = 0

    def rows(self) -> Iterator[JsonRow]:
        """Yield every row of the lists at the top, and what stands there beside them."""
        while first := self._next():
            if first == b"[":
                self._at += 1
                yield from self._list()
            elif first in _CLOSE:
                self._at += 1
            else:
                row = self._row(listed=False)
                if row.fault == TOO_LONG and first == b"{":
                    yield from self._lists_within()
                else:
                    yield self._mended(row)

    def refuse(self) -> None:
        """Go back, in the row just given, which is no JSON, to where the next one seems to begin."""
        if found := _NEXT_ROW.search(self._buffer, self._began + 1, self._at):
            self._again += self._at - found.end()
            if self._again > _READ_AGAIN * self._read:
                raise BadFile("broken JSON", "too many rows do not end where the next one begins")
            self._at = found.end()
            self._depth, self._in_string = 0, False

    def _list(self) -> Iterator[JsonRow]:
        """The rows of a list that has begun."""
        fault = ""
        while first := self._next():
            if first in _CLOSE:
                self._at += 1
                return
            row = self._mended(self._row(listed=True))
            fault = row.fault
            yield row
        if not fault:
            yield JsonRow(b"", "the list does not end", listed=True)

    def _lists_within(self) -> Iterator[JsonRow]:
        """The rows of the lists of objects in the object that has just been found to be too long."""
        self._at, self._in_string = self._began + 1, False
        depth, empty = 1, True
        while depth and (byte := self._token(keep=False)):
            if byte == ord("[") and self._next() == b"{":
                yield from self._list()
                empty = False
            else:
                depth += (byte in _OPEN) - (byte in _CLOSE)
        if empty:
            yield JsonRow(b"", TOO_LONG)

    def _row(self, listed: bool) -> JsonRow:
        """The value that begins here."""
        self._began, self._depth, self._in_string = self._at, 0, False
        try:
            ended = self._scan(keep=True)
        except _TooLongError:
            return JsonRow(b"", TOO_LONG, listed)
        if not ended:
            return JsonRow(b"", "it does not end", listed)
        return JsonRow(self._buffer[self._began : self._at], "", listed)

    def _mended(self, row: JsonRow) -> JsonRow:
        """The row; if it has a fault, what is looked at next is what seems to be the next row."""
        if row.fault:
            self.refuse()
            if self._depth or self._in_string:
                self._scan(keep=False)
        return row

    def _next(self) -> bytes:
        """Pass over what stands between values; returns the first byte after it, nothing at the end of the file."""
        while True:
            self._at = _BETWEEN.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._buffer) or not self._more(keep=False):
                return self._buffer[self._at : self._at + 1]

    def _scan(self, keep: bool) -> bool:
        """Go to the end of the value that begins here, or on with one; False if the file ends before."""
        if not self._depth and not self._in_string and self._buffer[self._at] not in b'"{[':
            return self._scan_scalar(keep)
        while byte := self._token(keep):
            self._depth += (byte in _OPEN) - (byte in _CLOSE)
            if self._depth <= 0:
                self._check_length(keep)
                return True
        return False

    def _scan_scalar(self, keep: bool) -> bool:
        while not (found := _SCALAR_END.search(self._buffer, self._at + 1)):
            self._at = len(self._buffer) - 1
            if not self._more(keep):
                self._at = len(self._buffer)
                return True
        self._at = found.start()
        return True

    def _token(self, keep: bool) -> int:
        """Go past the next string, or bracket outside of strings; returns its last byte, 0 at the end of the file."""
        while True:
            found = (_IN_STRING if self._in_string else _OUTSIDE).search(self._buffer, self._at)
            self._at = found.end() if found else len(self._buffer)
            if not found:
                if not self._more(keep):
                    return 0
                continue
            byte = self._buffer[found.start()]
            if byte == _QUOTE:
                if not self._in_string and (end := _end_of_string(self._buffer, self._at)):
                    self._at = end
                    return byte
                self._in_string = not self._in_string  # in one that goes on after what was read
                if not self._in_string:
                    return byte
            elif self._in_string:  # a backslash: what follows it is no end
                if self._at == len(self._buffer) and not self._more(keep):
                    return 0
                self._at += 1
            else:
                return byte

    def _more(self, keep: bool) -> bool:
        """Read on. All that stands before is forgotten, but for the row that has begun if it is to be kept."""
        self._check_length(keep)
        start = self._began if keep else self._at
        kept = self._buffer[start:]
        new = self._stream.read(max(_CHUNK, len(kept)))
        self._buffer, self._at = kept + new, self._at - start
        self._began = 0
        self._read += len(new)
        return bool(new)

    def _check_length(self, keep: bool) -> None:
        if keep and self._at - self._began > self._limit:
            raise _TooLongError


def _end_of_string(buffer: bytes, start: int) -> int:
    """Where the string ends that began before `start`; 0 if not in the buffer. Several times as fast as an expression."""
    at = start
    while (quote := buffer.find(b'"', at)) >= 0:
        first = quote  # of the backslashes before it, which escape each other in pairs
        while first > start and buffer[first - 1] == _BACKSLASH:
            first -= 1
        if (quote - first) % 2 == 0:
            return quote + 1
        at = quote + 1
    return 0


def rows_of(value: Any, columns: tuple[str, ...]) -> list[Any]:
    """Return the rows that an object holds in its lists; if it has none, or a text of its own, it is one itself."""
    if not isinstance(value, dict) or any(isinstance(value.get(name), str) for name in columns):
        return [value]
    rows: list[Any] = []
    waiting = [(value, 1)]
    while waiting:
        members, depth = waiting.pop()
        for name, member in members.items():
            if isinstance(member, dict) and depth < _DEPTH:
                waiting.append((member, depth + 1))
            elif isinstance(member, list) and (
                name in columns or any(isinstance(one, dict) for one in member)
            ):
                rows += member
    return rows or [value]
