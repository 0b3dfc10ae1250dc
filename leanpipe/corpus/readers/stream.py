"""Files as streams of bytes: local or remote, whole or by lines, never more of them than a document may have."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import IO, Any, NamedTuple

from leanpipe.core.allowed_paths import local_path
from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import SAMPLE, guess, is_binary, wide_encoding
from leanpipe.corpus.readers.unpack import (
    BadFile,
    CountingStream,
    DecompressedStream,
    RestartedStream,
    Utf8Stream,
    compression_of,
)
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_BUFFER = 1 << 20
_RECORDS = ("csv", "jsonl", "mbox", "warc")  # kinds of files of which a part can be read
_MAGIC_BYTES = 16
_MOST_PACKINGS = 3  # one within the other
TOO_LONG = "longer than read.max_document_bytes"


class Piece(NamedTuple):
    """One document of a file."""

    text: str
    position: int | None = None
    """Where it stands in its file, from 0; None if the file is one document."""
    html: bool = False


@contextmanager
def open_bytes(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Any]:
    """Open the unpacked bytes of a file. `log.bytes_read` follows how far into the file on disk they are.

    How a file begins tells whether it is packed, whatever its name says: programs that fetch files unpack them, or do not.
    Reading raises BadFile when the file turns out to be damaged or unfolds to more than `max_expansion` permits.
    """
    with open_file(file) as raw:
        counted = CountingStream(raw, log)
        stream: Any = io.BufferedReader(counted, _BUFFER)
        packings, codec = 0, compression_of(_first_bytes(raw, stream))
        while codec:
            packings += 1
            if packings > _MOST_PACKINGS:
                raise BadFile("damaged archive", f"it is packed more than {_MOST_PACKINGS} times")
            unpacked: Any = DecompressedStream(stream, codec, config, counted)
            if packings == 1 and file.kind in _RECORDS:
                unpacked = RestartedStream(unpacked, partial(open_file, file), partial(_note, file, log))
            stream = io.BufferedReader(unpacked, _BUFFER)
            codec = compression_of(stream.peek(_MAGIC_BYTES))
        if file.compression and not packings and is_binary(stream.peek(SAMPLE)):
            raise BadFile("damaged archive", f"it does not begin as a {file.compression} file does")
        yield stream


def _first_bytes(raw: IO[bytes], stream: io.BufferedReader) -> bytes:
    """The beginning of a file. One on this disk is looked at by itself, for a filled buffer would be copied once more."""
    if isinstance(raw, io.FileIO):
        head = raw.read(_MAGIC_BYTES)
        raw.seek(0)
        return head
    return stream.peek(_MAGIC_BYTES)


def _note(file: SourceFile, log: ReadLog, error: BadFile) -> None:
    log.begin()
    log.skip(file.source, error.reason, error.detail)


def open_file(file: SourceFile) -> IO[bytes]:
    """Open a file as it lies there, local or remote."""
    if path := local_path(file.url):
        return path.open("rb", buffering=0)
    import fsspec

    fs, path = fsspec.core.url_to_fs(file.url)
    return fs.open(path, "rb")


def read_whole(file: SourceFile, log: ReadLog, config: ReadConfig) -> bytes | None:
    """Read all bytes of a file; None, and a note in the log, if there are none, too many, or they are no text."""
    log.begin()
    with open_bytes(file, log, config) as stream:
        data = read_up_to(stream, config.max_document_bytes)
    if data is None:
        log.skip(file.source, TOO_LONG, _advice(file))
    elif not data:
        log.skip(file.source, "empty")
    elif is_binary(data):
        log.skip(file.source, "binary, not text")
    else:
        return data
    return None


def read_up_to(stream: Any, limit: int) -> bytes | None:
    """Read all that `stream` has left; None if that is more than `limit` bytes, of which no more than that are then read."""
    parts, size = [], 0
    while part := stream.read(_BUFFER):
        parts.append(part)
        size += len(part)
        if size > limit:
            return None
    return b"".join(parts)


@contextmanager
def open_lines(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[tuple[Any, str | None]]:
    """Open a stream whose lines end with byte 10, and tell in which encoding they are if they are no UTF-8.

    UTF-16 comes as UTF-8. Raises BadFile if the file is empty or no text.
    """
    with open_bytes(file, log, config) as stream:
        head = stream.peek(SAMPLE)[:SAMPLE]
        if not head:
            raise BadFile("empty")
        if is_binary(head):
            raise BadFile("binary, not text")
        if wide := wide_encoding(head):
            yield io.BufferedReader(Utf8Stream(stream, wide), _BUFFER), None
        else:
            yield stream, None if _is_utf8(head) else guess(head)


def read_lines(stream: Any, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (number from 0, line with its end); None instead of a line longer than `limit`, which is read over."""
    for number in count():
        line = stream.readline(limit + 1)
        if not line:
            return
        if len(line) > limit:
            while line and not line.endswith(b"\n"):
                line = stream.readline(_BUFFER)
            yield number, None
        else:
            yield number, line


def first_text(cells: Iterable[Any]) -> str | None:
    """Return the first of a row's text columns that holds text; if none does, the first that is empty text, if any."""
    empty = None
    for cell in cells:
        if isinstance(cell, str):
            if cell and not cell.isspace():
                return cell
            empty = cell if empty is None else empty
    return empty


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # the last character may be cut
    return True


def _advice(file: SourceFile) -> str:
    return "set read.text_files to lines if each of its lines is a document" if file.kind == "text" else ""
