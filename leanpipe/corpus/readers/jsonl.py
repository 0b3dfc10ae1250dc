"""JSON lines: a line is one document, its text in the first of the text columns that it has."""

from collections.abc import Iterator
from typing import Any

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode
from leanpipe.corpus.readers.stream import TOO_LONG, BadFile, Piece, open_lines, read_lines
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_MARK = b"\xef\xbb\xbf"


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read one piece for each line that holds a text."""
    blank = True
    with open_lines(file, log, config) as (stream, encoding):
        for number, line in read_lines(stream, config.max_document_bytes):
            if line is None:
                log.skip(file.source, TOO_LONG, position=number)
            elif line := line.strip():
                if piece := _read_line(line, number, encoding, file, log, config):
                    yield piece
            else:
                continue
            blank = False
    if blank:
        raise BadFile("empty")


def _read_line(
    line: bytes, number: int, encoding: str | None, file: SourceFile, log: ReadLog, config: ReadConfig
) -> Piece | None:
    """The text of a line; None, and a note in the log, if it has none."""
    try:
        row, repaired = _parse(line, encoding)
    except (ValueError, RecursionError) as error:
        log.skip(file.source, "line is not JSON", error, number)
        return None
    text = first_text(row, config.text_columns)
    if text is None:
        log.skip(
            file.source, "no text column", f"none of {', '.join(config.text_columns)} holds text", number
        )
        return None
    if repaired:
        log.repair(f"{file.source}#{number}")
        text = text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")
    return Piece(text, number)


def first_text(row: Any, columns: tuple[str, ...]) -> str | None:
    """Return the text in the first of `columns` that `row` has."""
    value = next((row[name] for name in columns if name in row), None) if isinstance(row, dict) else None
    return value if isinstance(value, str) else None


def _parse(line: bytes, encoding: str | None) -> tuple[Any, bool]:
    """The value, and whether it was written carelessly. Raises ValueError or RecursionError if it is not JSON."""
    import orjson

    try:
        return orjson.loads(line.removeprefix(_MARK)), False
    except orjson.JSONDecodeError:
        pass
    # Python's own parser also takes NaN, and halves of surrogate pairs, which are no Unicode.
    import json

    return json.loads(decode(line, guessed=encoding).text), True
