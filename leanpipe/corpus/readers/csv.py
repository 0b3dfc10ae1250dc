"""CSV and TSV: a row is one document, its text in the first of the text columns that holds any."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode
from leanpipe.corpus.readers.stream import TOO_LONG, BadFile, Piece, first_text, open_lines, read_lines
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_DELIMITERS = ",;\t|"
_NO_LIMIT = 2**31 - 1  # on a field: the feed bounds what is put together, and sees it earlier
_SPREADSHEET = re.compile(r"(?i)sep=(.)\r?\n")  # a first line by which Excel is told the delimiter
_READ_AGAIN = 8  # times the file: what may be read once more after quotes that do not close
_LEAST_AGAIN = 1 << 20
_SAID = {"unexpected end of data": "a quote opens that does not close"}
_ESCAPED_QUOTE = '\\"'


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read one piece for each row. A row that does not fit the header, or whose quotes do not close, is skipped.

    Reading then goes on at the line after the one where the row begins, so that a stray quote costs one line.
    """
    with open_lines(file, log, config) as (stream, encoding):
        feed = _Feed(stream, encoding, config.max_document_bytes)
        table = _Table(feed, config.text_columns)
        if not table.columns:
            wanted = ", ".join(config.text_columns)
            raise BadFile("no text column", f"it has {', '.join(table.header)}, none of {wanted}")
        yield from _pieces(table, feed, file, log)


class _Feed:
    """Decoded lines, as many to a row as `max_document_bytes` permits. All but the first of a row can be had again."""

    def __init__(self, stream: Any, encoding: str | None, limit: int):
        self._lines = read_lines(stream, limit)
        self._encoding, self._limit = encoding, limit
        self._again: io.BytesIO | None = None  # what is read once more, before the stream
        self._too_long = False  # whether the line after that is too long
        self._row = bytearray()
        self._first = 0  # bytes of the row's first line
        self._from_stream = False
        self._fed = self._fed_again = 0
        self.repaired = False

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        if self._first and self._fed_again > _READ_AGAIN * self._fed + _LEAST_AGAIN:
            raise csv.Error("a quote does not close within its line")  # time must stay linear
        line = self._next_line()
        if line is None:
            self._too_long = bool(self._first)
            raise csv.Error(TOO_LONG)
        self._row += line
        self._first = self._first or len(line)
        if len(self._row) > self._limit:
            raise csv.Error(TOO_LONG)
        decoded = decode(line, guessed=self._encoding)
        self.repaired |= decoded.repaired
        return decoded.text

    def _next_line(self) -> bytes | None:
        """The next line; None if it is too long."""
        if self._again:
            if line := self._again.readline():
                return line
            self._again = None
        if self._too_long:
            self._too_long = False
            return None
        _, following = next(self._lines)
        self._from_stream = True
        self._fed += len(following or b"")
        return following

    def begin_row(self) -> None:
        """Forget the row before."""
        self._row.clear()
        self._first, self._from_stream, self.repaired = 0, False, False

    def go_back(self) -> None:
        """Read the lines of this row again, but for its first."""
        again = len(self._row) - self._first
        self._fed_again += again
        if not again:
            return
        if self._from_stream or not self._again:  # so nothing is left of what was read before
            self._again = io.BytesIO(bytes(self._row[self._first :]))
        else:
            self._again.seek(-again, io.SEEK_CUR)

    def first_line(self) -> str:
        """Return the line in which this row begins."""
        return decode(bytes(self._row[: self._first]), guessed=self._encoding).text

    def swallows_rows(self, delimiter: str, width: int) -> bool:
        """Whether each line of this row after the first looks like a row of its own: a quote that closed by accident.

        Tabs hardly ever stand in a text; commas do, so there two such lines of three fields are asked for.
        """
        if len(self._row) == self._first or width < (2 if delimiter == "\t" else 3):
            return False
        lines = bytes(self._row[self._first :]).splitlines()
        few = len(lines) < 2 and delimiter != "\t"
        return not few and all(line.count(delimiter.encode()) == width - 1 for line in lines)


class _Table:
    """The rows of a CSV file after its header, read by the delimiter that finds the most columns in that."""

    def __init__(self, feed: _Feed, wanted: tuple[str, ...]):
        """Read the header. Raises BadFile if it is broken."""
        csv.field_size_limit(_NO_LIMIT)
        self._feed = feed
        try:
            first = next(feed, "")
            told = _SPREADSHEET.fullmatch(first)
            first = next(feed, "") if told else first
            delimiters = told[1] if told else _DELIMITERS
            headers = {one: next(csv.reader([first], delimiter=one), []) for one in delimiters}
        except csv.Error as error:
            raise BadFile("broken header", error) from error
        self.delimiter = max(
            headers, key=lambda one: (bool(set(wanted) & set(headers[one])), len(headers[one]))
        )
        self.header = [name.strip() for name in headers[self.delimiter]]
        self.columns = [self.header.index(name) for name in wanted if name in self.header]
        self._rows = csv.reader(feed, delimiter=self.delimiter, strict=True)

    def next_row(self) -> list[str]:
        """Read the next row; a blank line is an empty one. Raises csv.Error if it is broken, StopIteration at the end."""
        self._feed.begin_row()
        try:
            row = next(self._rows)
            self._check(row)
        except csv.Error:
            self._feed.go_back()
            if row_with_backslashes := self._with_backslashes():
                return row_with_backslashes
            raise
        return row

    def _check(self, row: list[str]) -> None:
        width = len(self.header)
        if row and len(row) != width:
            raise csv.Error(f"{len(row)} fields where the header has {width}")
        if row and self._feed.swallows_rows(self.delimiter, width):
            raise csv.Error("a quote closes only in a later row")

    def _with_backslashes(self) -> list[str] | None:
        """The fields of a broken row's first line if quotes are escaped there as other programs than CSV's do it."""
        line = self._feed.first_line()
        if _ESCAPED_QUOTE not in line:
            return None
        try:
            row = next(csv.reader([line], delimiter=self.delimiter, escapechar="\\", strict=True), [])
        except csv.Error:
            return None
        return row if len(row) == len(self.header) else None


def _pieces(table: _Table, feed: _Feed, file: SourceFile, log: ReadLog) -> Iterator[Piece]:
    position = 0
    while True:
        try:
            row = table.next_row()
        except StopIteration:
            return
        except csv.Error as error:
            log.begin()
            too_long = str(error) == TOO_LONG
            reason, detail = (TOO_LONG, "") if too_long else ("broken row", _SAID.get(str(error), error))
            log.skip(file.source, reason, detail, position)
        else:
            if not row:
                continue
            log.begin()
            if feed.repaired:
                log.repair(f"{file.source}#{position}")
            yield Piece(first_text(row[column] for column in table.columns) or "", position)
        position += 1
