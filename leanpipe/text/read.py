"""Files to documents. A file that cannot be read is noted and passed over; it never ends the run."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, BinaryIO, cast

from leanpipe.text.document import Document, document_id
from leanpipe.text.encodings import decode, is_binary
from leanpipe.text.files import HTML, JSONL, PARQUET, ReadLog, SourceFile

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_files(
    files: Sequence[SourceFile],
    log: ReadLog,
    columns: Sequence[str] = ("text", "content"),
    by_line: bool = False,
) -> Iterator[Document]:
    """The documents of `files`, one after the other, so that only one is in memory.

    A text or HTML file is one document; a row of JSON lines or Parquet is one, its text in the first of `columns`
    that it has. With `by_line`, every line of a .txt or .md file is a document.
    """
    for file in files:
        done = log.bytes_read
        for position, text in _texts(file, log, columns, by_line):
            yield Document(
                document_id(file.corpus, file.source, position), text, file.source, file.kind == HTML
            )
        log.bytes_read = done + file.path.stat().st_size


def _texts(
    file: SourceFile, log: ReadLog, columns: Sequence[str], by_line: bool
) -> Iterator[tuple[int, str]]:
    """(position in the file, text). What is read before a file breaks off is kept."""
    import pyarrow
    import zstandard

    try:
        if file.kind == PARQUET:
            yield from _rows(file, log, columns)
        else:
            yield from _read_stream(file, log, columns, by_line)
    except (gzip.BadGzipFile, zlib.error, EOFError, zstandard.ZstdError) as error:
        log.skip(file.source, "damaged archive", error)
    except pyarrow.ArrowException as error:
        log.skip(file.source, "damaged Parquet file", str(error).splitlines()[0])
    except OSError as error:
        log.skip(file.source, "not readable", error.strerror or error)


def _read_stream(
    file: SourceFile, log: ReadLog, columns: Sequence[str], by_line: bool
) -> Iterator[tuple[int, str]]:
    with file.path.open("rb") as raw, _decompress(raw, file.compression) as stream:
        if file.kind == JSONL:
            yield from _json_lines(_lines(raw, stream, log), file.source, log, columns)
            return
        data = stream.read()
    if not data:
        log.skip(file.source, "empty")
    elif is_binary(data):
        log.skip(file.source, "binary, not text")
    else:
        decoded = decode(data, html=file.kind == HTML)
        if decoded.repaired:
            log.repaired.append(file.source)
        if by_line and file.kind != HTML:
            yield from (
                (number, line) for number, line in enumerate(decoded.text.splitlines()) if line.strip()
            )
        else:
            yield 0, decoded.text


def _decompress(raw: BinaryIO, compression: str) -> IO[bytes]:
    if compression == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if compression == ".zst":
        import zstandard

        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return raw


def _lines(raw: BinaryIO, stream: IO[bytes], log: ReadLog) -> Iterator[bytes]:
    """The lines of `stream`, telling `log` how far into the file on disk it is."""
    before = log.bytes_read
    start = stream.peek(2)[:2]  # type: ignore[attr-defined]
    if start in _UTF16:
        yield from (line.encode(errors="surrogatepass") for line in codecs.getreader("utf-16")(stream))
        return
    for line in stream:
        log.bytes_read = before + raw.tell()
        yield line


def _json_lines(
    lines: Iterator[bytes], source: str, log: ReadLog, columns: Sequence[str]
) -> Iterator[tuple[int, str]]:
    empty = True
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        empty = False
        decoded = decode(line)
        try:
            row = json.loads(decoded.text)
        except (ValueError, RecursionError) as error:
            log.skip(f"{source}:{number + 1}", "line is not JSON", error)
            continue
        text = next((row[name] for name in columns if name in row), None) if isinstance(row, dict) else None
        if not isinstance(text, str):
            log.skip(f"{source}:{number + 1}", "no text column", f"none of {', '.join(columns)} holds text")
            continue
        if decoded.repaired:
            log.repaired.append(f"{source}:{number + 1}")
        yield number, text
    if empty:
        log.skip(source, "empty")


def _rows(file: SourceFile, log: ReadLog, columns: Sequence[str]) -> Iterator[tuple[int, str]]:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file.path) as table:
        types = {field.name: field.type for field in table.schema_arrow}
        column = next((name for name in columns if name in types), None)
        if column is None or not _is_text(types[column]):
            log.skip(
                file.source, "no text column", f"it has {', '.join(types)}, none of {', '.join(columns)}"
            )
            return
        position = 0
        for batch in table.iter_batches(columns=[column], batch_size=1000):
            for text in batch.column(0).cast(pyarrow.large_string()).to_pylist():
                if text is None:
                    log.skip(f"{file.source}:{position + 1}", "no text in the row")
                else:
                    yield position, text
                position += 1


def _is_text(kind: object) -> bool:
    import pyarrow.types

    return (
        pyarrow.types.is_string(kind)
        or pyarrow.types.is_large_string(kind)
        or pyarrow.types.is_string_view(kind)
    )
