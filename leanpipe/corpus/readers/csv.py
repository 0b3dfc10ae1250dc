"""CSV and TSV: a row is one document, its text in the first of the text columns that the header names."""

import csv
from collections.abc import Iterator

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode
from leanpipe.corpus.readers.stream import TOO_LONG, BadFile, Piece, open_lines, read_lines
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_DELIMITERS = ",;\t|"
_NO_LIMIT = 2**31 - 1  # on a field: the feed bounds what is put together, and sees it earlier


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read one piece for each row. A row that does not fit the header, or whose quotes do not close, is skipped."""
    with open_lines(file, log, config) as (stream, encoding):
        feed = _Feed(stream, encoding, file, log, config)
        rows, header = _begin(feed, config.text_columns)
        column = next((header.index(name) for name in config.text_columns if name in header), None)
        if column is None:
            wanted = ", ".join(config.text_columns)
            raise BadFile("no text column", f"it has {', '.join(header)}, none of {wanted}")
        yield from _rows(rows, len(header), column, feed)


class _Feed:
    """Decoded lines, as many to a row as `max_document_bytes` permits."""

    def __init__(self, stream, encoding: str | None, file: SourceFile, log: ReadLog, config: ReadConfig):
        self._lines = read_lines(stream, config.max_document_bytes)
        self._encoding, self._limit = encoding, config.max_document_bytes
        self.source, self.log = file.source, log
        self.row_bytes = 0
        self.repaired = False

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        _, line = next(self._lines)
        self.row_bytes += self._limit + 1 if line is None else len(line)
        if line is None or self.row_bytes > self._limit:
            raise csv.Error(TOO_LONG)
        decoded = decode(line, guessed=self._encoding)
        self.repaired |= decoded.repaired
        return decoded.text


def _begin(feed: _Feed, columns: tuple[str, ...]):
    """The reader of the rows after the header, and the header, read by the delimiter that finds the most columns in it."""
    csv.field_size_limit(_NO_LIMIT)
    try:
        first = next(feed, "")
        headers = {one: next(csv.reader([first], delimiter=one), []) for one in _DELIMITERS}
    except csv.Error as error:
        raise BadFile("broken header", error) from error
    delimiter = max(headers, key=lambda one: (bool(set(columns) & set(headers[one])), len(headers[one])))
    header = [name.strip() for name in headers[delimiter]]
    return csv.reader(feed, delimiter=delimiter, strict=True), header


def _rows(rows, width: int, column: int, feed: _Feed) -> Iterator[Piece]:
    position = 0
    while True:
        feed.row_bytes, feed.repaired = 0, False
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            too_long = str(error) == TOO_LONG
            feed.log.skip(
                feed.source, TOO_LONG if too_long else "broken row", "" if too_long else error, position
            )
        else:
            if not row:
                continue
            if len(row) == width:
                if feed.repaired:
                    feed.log.repair(f"{feed.source}#{position}")
                yield Piece(row[column], position)
            else:
                feed.log.skip(
                    feed.source, "broken row", f"{len(row)} fields where the header has {width}", position
                )
        position += 1
