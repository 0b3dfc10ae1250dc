"""Files as streams of bytes: local or remote, unpacked on the way, bounded in what one file may unfold to."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import IO, Any, BinaryIO, NamedTuple, cast

from leanpipe.roots import local_path
from leanpipe.text.encodings import SAMPLE, guess, is_binary, wide_encoding
from leanpipe.text.listing import SourceFile
from leanpipe.text.readers.config import ReadConfig
from leanpipe.text.readlog import ReadLog

_BUFFER = 1 << 20
_CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
TOO_LONG = "longer than read.max_document_bytes"


class Piece(NamedTuple):
    """One document of a file."""

    text: str
    position: int | None = None
    """Where it stands in its file, from 0; None if the file is one document."""
    html: bool = False


class BadFile(Exception):
    """The rest of a file cannot be read."""

    def __init__(self, reason: str, detail: object = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@contextmanager
def damage(what: str) -> Iterator[None]:
    """Raise BadFile for what a library finds wrong in a file. What the operating system finds has an errno."""
    import pyarrow

    try:
        yield
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadFile(f"damaged {what}", str(error).partition("\n")[0]) from error


@contextmanager
def open_bytes(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[io.BufferedReader]:
    """The unpacked bytes of a file. `log.bytes_read` follows how far into the file on disk they are.

    Reading raises BadFile when the file turns out to be damaged or unfolds to more than `max_expansion` permits.
    """
    with open_file(file) as raw:
        counted = _Counted(raw, log)
        if not file.compression:
            yield io.BufferedReader(counted, _BUFFER)
            return
        yield io.BufferedReader(_Unpacked(counted, _CODECS[file.compression], config), _BUFFER)


def open_file(file: SourceFile) -> IO[bytes]:
    """A file as it lies there, local or remote."""
    if path := local_path(file.url):
        return path.open("rb", buffering=0)
    import fsspec

    fs, path = fsspec.core.url_to_fs(file.url)
    return fs.open(path, "rb")


def read_whole(file: SourceFile, log: ReadLog, config: ReadConfig) -> bytes | None:
    """All bytes of a file; None, and a note in the log, if there are none, too many, or they are no text."""
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
    """All that `stream` has left; None if that is more than `limit` bytes, of which no more than that are then read."""
    parts, size = [], 0
    while part := stream.read(_BUFFER):
        parts.append(part)
        size += len(part)
        if size > limit:
            return None
    return b"".join(parts)


@contextmanager
def open_lines(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[tuple[Any, str | None]]:
    """A stream whose lines end with byte 10, and in which encoding they are if they are no UTF-8.

    UTF-16 comes as UTF-8. Raises BadFile if the file is empty or no text.
    """
    with open_bytes(file, log, config) as stream:
        head = stream.peek(SAMPLE)[:SAMPLE]
        if not head:
            raise BadFile("empty")
        if is_binary(head):
            raise BadFile("binary, not text")
        if wide := wide_encoding(head):
            yield io.BufferedReader(_Narrowed(stream, wide), _BUFFER), None
        else:
            yield stream, None if _is_utf8(head) else guess(head)


def lines(stream: Any, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 0, line with its end); None instead of a line longer than `limit`, which is read over."""
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


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # the last character may be cut
    return True


def _advice(file: SourceFile) -> str:
    return "set read.text_files to lines if each of its lines is a document" if file.kind == "text" else ""


class _Stream(io.RawIOBase):
    """A stream of bytes that can only be read on."""

    _position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position


class _Counted(_Stream):
    """A file as it lies there."""

    def __init__(self, raw: IO[bytes], log: ReadLog):
        self._raw, self._log = cast(BinaryIO, raw), log

    def readinto(self, buffer: Any) -> int:
        size = self._raw.readinto(buffer) or 0  # type: ignore[attr-defined]
        self._position += size
        self._log.bytes_read += size
        return size


class _Unpacked(_Stream):
    """What a compressed file holds, however many archives follow each other in it."""

    def __init__(self, packed: _Counted, codec: str, config: ReadConfig):
        import pyarrow

        # Unlike Python's gzip and zstandard, Arrow is fast with both, and notices when a file ends too early.
        self._unpacked = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), codec)
        self._packed, self._config = packed, config

    def readinto(self, buffer: Any) -> int:
        with damage("archive"):
            size = self._unpacked.readinto(buffer)
        self._position += size
        # What is one document long is bounded by the documents' own limit.
        limit = self._packed.tell() * self._config.max_expansion + self._config.max_document_bytes
        if self._position > limit:
            raise BadFile(
                "expands more than read.max_expansion times", f"to more than {self._position} bytes"
            )
        return size


class _Narrowed(_Stream):
    """UTF-16 or UTF-32 as UTF-8."""

    def __init__(self, stream: io.BufferedReader, encoding: str):
        import codecs

        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._left = b""

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            wide = self._stream.read(_BUFFER)
            self._left = self._decoder.decode(wide, final=not wide).encode()
            if not wide:
                break
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size
