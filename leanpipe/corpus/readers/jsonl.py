"""JSON, lines of it or a list: a line or row is one document, its text in the first of the text columns that holds any."""

from collections.abc import Iterator
from typing import Any

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import SAMPLE, decode
from leanpipe.corpus.readers.json_values import JsonScanner, rows_of
from leanpipe.corpus.readers.stream import TOO_LONG, Piece, first_text, open_lines, read_lines
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_MARK = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n\v\f\x1e"  # the last one is what RFC 7464 puts before each value


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read one piece for each line that holds a text, or for each row of the lists in the file, as it is written."""
    with open_lines(file, log, config) as (stream, encoding):
        rows = _Rows(encoding, file, log, config)
        if _is_lines(stream.peek(SAMPLE)[:SAMPLE], config.text_columns):
            yield from rows.of_lines(stream)
        else:
            yield from rows.of_lists(JsonScanner(stream, config.max_document_bytes))


class _Rows:
    """The documents among the rows of a file; what is none goes to the log."""

    def __init__(self, encoding: str | None, file: SourceFile, log: ReadLog, config: ReadConfig):
        self._encoding, self._source, self._log, self._config = encoding, file.source, log, config
        self._none = f"none of {', '.join(config.text_columns)} holds text"

    def of_lines(self, stream: Any) -> Iterator[Piece]:
        """Read lines; a position is a line's number, empty ones counted."""
        for number, line in read_lines(stream, self._config.max_document_bytes):
            if line is None:
                self._log.begin()
                self._log.skip(self._source, TOO_LONG, position=number)
            elif line := line.strip(_BLANK):
                self._log.begin()
                try:
                    row, careless = _parse(line, self._encoding)
                except (ValueError, RecursionError) as error:
                    self._log.skip(self._source, "line is not JSON", error, number)
                    continue
                if piece := self._piece(_text(row, self._config.text_columns), number, careless):
                    yield piece

    def of_lists(self, scanner: JsonScanner) -> Iterator[Piece]:
        """Read the rows of lists; a position is a row's number."""
        position, columns = 0, self._config.text_columns
        for row in scanner.rows():
            fault: object = row.fault
            rows: list[Any] = [None]
            value, careless = None, False
            try:
                if not fault:
                    value, careless = _parse(row.data, self._encoding)
                    rows = [value] if row.listed else rows_of(value, columns)
            except (ValueError, RecursionError) as error:
                fault = error
                scanner.refuse()
            for one in rows:
                self._log.begin()
                if fault:
                    reason, detail = (TOO_LONG, "") if fault == TOO_LONG else ("row is not JSON", fault)
                    self._log.skip(self._source, reason, detail, position)
                else:
                    is_text = isinstance(one, str) and (row.listed or one is not value)
                    text = one if is_text else _text(one, columns)
                    if piece := self._piece(text, position, careless):
                        yield piece
                position += 1

    def _piece(self, text: str | None, position: int, careless: bool) -> Piece | None:
        """The document; None, and a note in the log, if the row holds no text."""
        if text is None:
            self._log.skip(self._source, "no text column", self._none, position)
            return None
        if careless:
            self._log.repair(f"{self._source}#{position}")
            text = text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")
        return Piece(text, position)


def _text(row: Any, columns: tuple[str, ...]) -> str | None:
    return first_text(map(row.get, columns)) if isinstance(row, dict) else None


def _is_lines(head: bytes, columns: tuple[str, ...]) -> bool:
    """Whether a file that begins so has a value on each line: its first one is whole, or broken and the next begins anew."""
    lines = filter(None, (line.strip(_BLANK) for line in head.removeprefix(_MARK).splitlines()))
    first, second = next(lines, b""), next(lines, b"")
    try:
        value, _ = _parse(first, None)
        return bool(second) or _text(value, columns) is not None
    except (ValueError, RecursionError):
        pass
    if first[:1] == b"[":
        return second[:1] == b"{" and not first.endswith((b"[", b","))
    if first[:1] == b"{":
        return second[:1] not in (b'"', b"}", b"")
    return True


def _parse(line: bytes, encoding: str | None) -> tuple[Any, bool]:
    """The value, and whether it was written carelessly. Raises ValueError or RecursionError if it is not JSON."""
    import orjson

    try:
        return orjson.loads(line.removeprefix(_MARK)), False
    except orjson.JSONDecodeError:
        pass
    # Python's own parser also takes NaN, and halves of surrogate pairs, which are no Unicode; a comma is left from a list.
    import json

    return json.loads(decode(line, guessed=encoding).text.removesuffix(",")), True
