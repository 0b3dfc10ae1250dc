"""What lies between a file on disk and the bytes that a reader sees: archives unpacked within bounds, UTF-16 narrowed."""

import codecs
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.sources.read_log import ReadLog

_MAGIC = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd"),
    (re.compile(rb"BZh[1-9](?:\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)"), "bz2"),
    (re.compile(rb"\xfd7zXZ\0"), "xz"),
)
"""How files of each codec begin; all but xz are Arrow's."""
_MOST_MEMORY = (
    1 << 27
)  # bytes that unpacking may take, of which the window is most; so zstd's own tools have it
_NEEDS_MEMORY = "archive needs too much memory"
_SAY_MEMORY = ("too much memory", "Memory usage limit")  # libzstd's words, and liblzma's
_ADVICE = f"a window of more than {_MOST_MEMORY >> 20} MB: pack it anew with a smaller one"
_BUFFER = 1 << 20
_DAMAGED = "damaged archive"
_GZIP, _GZIP_CHUNK = b"\x1f\x8b\x08", 1 << 16
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
    except (OSError, UnicodeDecodeError, lzma.LZMAError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if any(words in str(error) for words in _SAY_MEMORY):
            raise BadFile(_NEEDS_MEMORY, _ADVICE) from error
        raise BadFile(f"damaged {what}", str(error).partition("\n")[0]) from error


def compression_of(head: bytes) -> str | None:
    """Tell by which codec a file that begins so is packed; None if by none."""
    return next((codec for magic, codec in _MAGIC if magic.match(head)), None)


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

    def __init__(self, packed: io.BufferedReader, codec: str, config: ReadConfig, file: CountingStream):
        """`file` is what `packed` reads from, directly or through other archives."""
        import pyarrow

        self._unpacked: Any
        if codec == "xz":
            self._unpacked = _XzStream(packed)
        else:
            # Unlike Python's gzip and zstandard, Arrow is fast with both, and notices when a file ends too early.
            self._unpacked = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), codec)
        self._file, self._config = file, config
        self.is_gzip = codec == "gzip"
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
        try:
            self.check_expansion(self._file.tell())
        except BadFile as error:
            self._error = error
        if self._error and self._position == before:
            raise self._error
        return self._position - before  # an error waits until what stands before it is read

    def check_expansion(self, packed: int, more: int = 0) -> None:
        """Raise BadFile if what was unpacked, and `more`, is too much for so many packed bytes."""
        self._position += more
        # What is one document long is bounded by the documents' own limit.
        if self._position > packed * self._config.max_expansion + self._config.max_document_bytes:
            raise BadFile(
                "expands more than read.max_expansion times", f"to more than {self._position} bytes"
            )

    def _fill(self, buffer: memoryview) -> None:
        for start in range(0, len(buffer), _STEP):
            size = self._unpacked.readinto(buffer[start : start + _STEP])
            self._position += size
            if size < _STEP:
                return


class RestartedStream(_Stream):
    """What a .gz file of many archives holds, as web archives are packed: after a damaged one the next is read."""

    def __init__(
        self, unpacked: DecompressedStream, again: Callable[[], IO[bytes]], note: Callable[[BadFile], None]
    ):
        """`again` opens the file once more; `note` is told of what is passed over."""
        self._unpacked, self._again, self._note = unpacked, again, note
        self._parts: Iterator[bytes | BadFile] | None = None
        self._left = b""

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with unpacked bytes. Raises BadFile at damage after which nothing can be read."""
        if self._parts is None:
            try:
                size = self._unpacked.readinto(buffer)
            except BadFile as error:
                if error.reason != _DAMAGED or not self._unpacked.is_gzip:
                    raise
                self._parts = _after_damage(self._again(), self._unpacked)
            else:
                self._position += size
                return size
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            if isinstance(part, BadFile):
                self._note(part)
                part = b"\n\n"  # so that what was cut off is not taken for the beginning of what follows
            self._left = part
        size = min(len(buffer), len(self._left))
        memoryview(buffer)[:size], self._left = self._left[:size], self._left[size:]
        self._position += size
        return size


def _after_damage(raw: IO[bytes], unpacked: DecompressedStream) -> Iterator[bytes | BadFile]:
    """What the archives of a .gz file hold beyond what was `unpacked`, and, where one is damaged, the damage.

    Raises BadFile where no other archive follows. Python's zlib gives every byte before the damage; Arrow keeps some.
    """
    start, passed, known = 0, 0, unpacked.tell()
    with raw:
        while raw.seek(start) == start and raw.read(1):
            end = None
            for part in _gzip_archive(raw, start):
                if isinstance(part, int):
                    end = part
                    continue
                if new := part[max(0, known - passed) :]:
                    unpacked.check_expansion(raw.tell(), len(new))
                    yield new
                passed += len(part)
            if end is None:
                end = _next_gzip(raw, start + 1)
                yield BadFile(_DAMAGED, f"bytes {start} to {end} of the file cannot be unpacked")
            start = end


def _gzip_archive(raw: IO[bytes], start: int) -> Iterator[bytes | int]:
    """What one archive holds, and at last where it ends; without that it is damaged."""
    raw.seek(start)
    archive = zlib.decompressobj(31)
    data, read = b"", 0
    while not archive.eof:
        if not data:
            data = raw.read(_GZIP_CHUNK)
            read += len(data)
            if not data:
                return
        try:
            yield archive.decompress(data, _BUFFER)
        except zlib.error:
            return
        data = archive.unconsumed_tail
    yield start + read - len(archive.unused_data)


def _next_gzip(raw: IO[bytes], start: int) -> int:
    """Where the next archive begins that can be unpacked, at least at first. Raises BadFile if there is none."""
    raw.seek(start)
    window = raw.read(_BUFFER)
    while window:
        at = window.find(_GZIP)
        while at >= 0:
            first = next(_gzip_archive(raw, start + at), b"")
            if first:
                return start + at
            at = window.find(_GZIP, at + 1)
        raw.seek(
            start := start + max(1, len(window) - len(_GZIP) + 1)
            if len(window) == _BUFFER
            else start + len(window)
        )
        window = raw.read(_BUFFER)
    raise BadFile(_DAMAGED, "nothing after it can be unpacked")


class _XzStream:
    """What an .xz file holds, which Arrow does not read; Python's own reader knows no bound of memory."""

    def __init__(self, packed: io.BufferedReader):
        self._packed, self._left = packed, b""
        self._archive: lzma.LZMADecompressor | None = None

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with unpacked bytes; nothing is left to come if it is not filled."""
        filled = 0
        while filled < len(buffer) and (part := self._next(len(buffer) - filled)):
            buffer[filled : filled + len(part)] = part
            filled += len(part)
        return filled

    def _next(self, most: int) -> bytes:
        while True:
            self._left = self._left or self._packed.read(_BUFFER)
            if self._archive is None:
                if not self._left:
                    return b""
                self._left = self._left.lstrip(b"\0")  # between archives
                self._archive = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY) if self._left else None
                continue
            if self._archive.needs_input and not self._left:
                raise OSError("it ends too early")
            data, self._left = self._left, b""
            part = self._archive.decompress(data, most)
            if self._archive.eof:
                self._left, self._archive = self._archive.unused_data, None
            if part:
                return part


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
