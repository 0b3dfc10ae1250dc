"""What lies between a file on disk and the bytes that a reader sees: archives unpacked within bounds, UTF-16 narrowed."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.sources.read_log import ReadLog

CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Arrow's names of the compressions."""
_BUFFER = 1 << 20
_STEP = 1024  # bytes: where an archive is damaged, Arrow keeps what it was just asked for


class BadFile(Exception):
    """Raised when the rest of a file cannot be read."""

    def __init__(self, reason: str, detail: object = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@contextmanager
def as_bad_file(what: str) -> Iterator[None]:
    """Raise BadFile for what a library finds wrong in a file. What the operating system finds has an errno."""
    import pyarrow

    try:
        yield
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadFile(f"damaged {what}", str(error).partition("\n")[0]) from error


class _Stream(io.RawIOBase):
    """A stream of bytes that can only be read on."""

    _position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position


class CountingStream(_Stream):
    """A file as it lies there, which notes in the log how much of it was read."""

    def __init__(self, raw: IO[bytes], log: ReadLog):
        self._raw, self._log = raw, log

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, and count what was read."""
        size = self._raw.readinto(buffer) or 0  # type: ignore[attr-defined]
        self._position += size
        self._log.bytes_read += size
        return size


class DecompressedStream(_Stream):
    """What a compressed file holds, however many archives follow each other in it."""

    def __init__(self, packed: CountingStream, codec: str, config: ReadConfig):
        import pyarrow

        # Unlike Python's gzip and zstandard, Arrow is fast with both, and notices when a file ends too early.
        self._unpacked = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), codec)
        self._packed, self._config = packed, config
        self._error: BadFile | None = None

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with unpacked bytes. Raises BadFile at damage, and where the file unfolds to too much."""
        if self._error:
            raise self._error
        before = self._position
        try:
            with as_bad_file("archive"):
                self._fill(memoryview(buffer))
        except BadFile as error:
            self._error = error
        # What is one document long is bounded by the documents' own limit.
        limit = self._packed.tell() * self._config.max_expansion + self._config.max_document_bytes
        if self._position > limit:
            detail = f"to more than {self._position} bytes"
            self._error = BadFile("expands more than read.max_expansion times", detail)
        if self._error and self._position == before:
            raise self._error
        return self._position - before  # an error waits until what stands before it is read

    def _fill(self, buffer: memoryview) -> None:
        for start in range(0, len(buffer), _STEP):
            size = self._unpacked.readinto(buffer[start : start + _STEP])
            self._position += size
            if size < _STEP:
                return


class Utf8Stream(_Stream):
    """A stream of UTF-16 or UTF-32, read as UTF-8."""

    def __init__(self, stream: io.BufferedReader, encoding: str):
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._left = b""

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with UTF-8."""
        while not self._left:
            wide = self._stream.read(_BUFFER)
            self._left = self._decoder.decode(wide, final=not wide).encode()
            if not wide:
                break
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size
