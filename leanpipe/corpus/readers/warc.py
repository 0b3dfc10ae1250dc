"""Web archives (.warc, .wet): each page that a server sent, or the text that was taken from it, is one document."""

import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode, is_binary
from leanpipe.corpus.readers.stream import TOO_LONG, BadFile, Piece, open_bytes, read_up_to
from leanpipe.corpus.readers.unpack import as_bad_file, compression_of
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_HTML = ("text/html", "application/xhtml+xml")
PAGES = (*_HTML, "text/plain", "text/markdown")
"""Media types that are read."""
_DAMAGED = "damaged record"
_MAX_HEADERS, _BUFFER = 1 << 16, 1 << 20  # bytes
_FIRST_LINE = 16  # bytes: an empty line, and the version with which a record begins
_VERSION = re.compile(rb"WARC/\d\.\d\s*$")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,18})[ \t]*\r?$")
_END = re.compile(rb"\r?\n\r?\n|\s*WARC/")
_NEXT = re.compile(rb"\r?\n\r?\n(?=WARC/\d\.\d\r?\n)")
_CODING = rb"(?im)^content-encoding:[^\n]*\n"
_CHUNKS = rb"(?im)^transfer-encoding:[^\n]*\n"
_CHUNK = re.compile(rb"\s*[0-9a-fA-F]{1,8}[ \t]*(?:;[^\r\n]*)?\r?\n")


class _Record(NamedTuple):
    """One record as it lies in an archive, or what is wrong with it."""

    headers: bytes
    content: bytes = b""
    fault: str = ""
    too_long: bool = False


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read one piece for each page; a position is a record's number, of whatever type. What is no page is skipped.

    FastWARC (Bevendorff et al. 2018, "Elastic ChatNoir") reads records, twelve times as fast as warcio. Where one ends we
    find ourselves, for FastWARC stops for good at the first that is damaged.
    """
    with open_bytes(file, log, config) as stream:
        if not stream.peek(1):
            raise BadFile("empty")
        for position, record in enumerate(_records(_Rewound(stream), config.max_document_bytes)):
            log.begin()
            try:
                yield _page(record, position, file, log, config)
            except BadFile as error:
                log.skip(file.source, error.reason, error.detail, position)


class _Rewound:
    """A stream of which the last bytes can be given back."""

    def __init__(self, stream: Any):
        self._stream, self._again = stream, io.BytesIO()

    def give_back(self, data: bytes) -> None:
        """Read `data` before what follows in the stream."""
        self._again = io.BytesIO(data + self._again.read())

    def readline(self) -> bytes:
        """Read a line, or its first 64 KB."""
        line = self._again.readline(_MAX_HEADERS)
        return line if line.endswith(b"\n") else line + self._stream.readline(_MAX_HEADERS)

    def read(self, size: int) -> bytes:
        """Read so many bytes, fewer at the end of the file."""
        data = self._again.read(size)
        return data + self._stream.read(size - len(data)) if len(data) < size else data


def _records(stream: _Rewound, limit: int) -> Iterator[_Record]:
    """Every record. After a damaged one the next is looked for. Raises BadFile if there is none at all."""
    found = False
    while line := stream.readline():
        if not line.strip():
            continue
        if _VERSION.match(line):
            found = True
            yield _next_record(line, stream, limit)
        elif _skip_to_record(stream) or found:
            found = True
            yield _Record(b"", fault="what stands there is no record")
        else:
            raise BadFile("damaged web archive", "no record was found")


def _next_record(version: bytes, stream: _Rewound, limit: int) -> _Record:
    """The record whose first line was read."""
    lines = [version]
    size = 0
    while (line := stream.readline()).strip():
        lines.append(line)
        size += len(line)
        if size > _MAX_HEADERS:
            _skip_to_record(stream)
            return _Record(b"", fault=f"more than {_MAX_HEADERS} bytes of headers")
    headers = b"".join(lines)
    length = _LENGTH.search(headers)
    if not length:
        _skip_to_record(stream)
        return _Record(headers, fault="it does not say how long it is")
    return _with_content(headers, int(length[1]), stream, limit + _MAX_HEADERS)


def _with_content(headers: bytes, length: int, stream: _Rewound, most: int) -> _Record:
    """The record with its content, of which no more than `most` bytes are kept."""
    content = stream.read(min(length, most))
    whole = len(content) == min(length, most)
    if whole and length > most:
        whole = _pass_over(stream, length - most)
    after = stream.read(_FIRST_LINE)
    if whole and (not after.strip() or _END.match(after)):
        stream.give_back(after)
        return _Record(headers, content, too_long=length > most)
    # It is not as long as it says: the next record may lie in what was read, or be farther off.
    if found := _NEXT.search(content + after):
        stream.give_back((content + after)[found.end() :])
        return _Record(headers, fault=f"it ends after {found.start()} of {length} bytes")
    stream.give_back(after)
    if whole:
        _skip_to_record(stream)
        return _Record(headers, fault=f"it is longer than the {length} bytes that it says")
    return _Record(headers, fault=f"it ends after {len(content)} of {length} bytes")


def _pass_over(stream: _Rewound, size: int) -> bool:
    """Read over so many bytes; False if they hold another record, which is next then, or the file ends before."""
    while size:
        part = stream.read(min(size, _BUFFER))
        if found := _NEXT.search(part):
            stream.give_back(part[found.end() :])
            return False
        if not part:
            return False
        size -= len(part)
    return True


def _skip_to_record(stream: _Rewound) -> bool:
    """Read over everything up to the next record; whether there is one."""
    while line := stream.readline():
        if _VERSION.match(line):
            stream.give_back(line)
            return True
    return False


def _page(found: _Record, position: int, file: SourceFile, log: ReadLog, config: ReadConfig) -> Piece:
    """The page in a record. Raises BadFile if it holds none."""
    if found.fault:
        raise BadFile(_DAMAGED, found.fault)
    kind, charset, data = _content(found, config.max_document_bytes)
    if not data or is_binary(data):
        raise BadFile("binary, not text" if data else "empty")
    decoded = decode(data, charset, html=kind in _HTML)
    if decoded.repaired:
        log.repair(f"{file.source}#{position}")
    return Piece(decoded.text, position, html=kind in _HTML)


def _content(found: _Record, limit: int) -> tuple[str, str | None, bytes]:
    """Media type, charset and content of a record. Raises BadFile if it is no page."""
    from fastwarc import warc

    record = _parsed(found)
    if not record.record_type & (warc.response | warc.resource | warc.conversion):
        raise BadFile("record of another type", (record.headers.get("WARC-Type") or "none").lower())
    http, charset = record.is_http, None
    if http:
        with as_bad_file("record"):
            record.parse_http(auto_decode="none")
        kind, charset = (record.http_content_type or "").lower(), record.http_charset
        status = record.http_headers.status_code or 0
        if not 200 <= status < 300:
            raise BadFile("page with an error status", status)
    else:
        kind, _, rest = (record.headers.get("Content-Type") or "").lower().partition(";")
        kind, charset = kind.strip(), rest.partition("charset=")[2].strip("\"' ") or None
    if kind not in PAGES:
        raise BadFile("media type that is not read", kind or "none")
    if found.too_long:
        raise BadFile(TOO_LONG)
    data = _bounded(record.reader, limit)
    return kind, charset, _unpacked(record, data, limit) if http else data


def _parsed(found: _Record) -> Any:
    from fastwarc.warc import ArchiveIterator

    stream = io.BytesIO(b"".join((found.headers, b"\r\n", found.content, b"\r\n\r\n")))
    with as_bad_file("record"):
        record = next(ArchiveIterator(stream, parse_http=False, stream_detect=False), None)
    if record is None:
        raise BadFile(_DAMAGED, "its headers cannot be read")
    return record


def _unpacked(record: Any, body: bytes, limit: int) -> bytes:
    """What a server sent, unpacked; archives keep headers of codings that they have undone, or the other way round."""
    stream = io.BytesIO()
    record.http_headers.write(stream)
    head, fault = stream.getvalue(), None
    for claims in _believable(head, body):
        try:
            data = _decoded(claims, body, limit)
            if (codec := compression_of(data)) in ("gzip", "zstd"):
                data = _decoded(
                    b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\n\r\n" % codec.encode(), data, limit
                )
        except BadFile as error:
            if error.reason == TOO_LONG:
                raise
            fault = fault or error
        else:
            if claims is head or not is_binary(data):
                return data
    raise fault or BadFile(_DAMAGED)


def _believable(head: bytes, body: bytes) -> Iterator[bytes]:
    """The HTTP headers, and then without what they may claim wrongly of the body."""
    yield head
    plain = re.sub(_CODING, b"", head)
    yield plain
    if not _CHUNK.match(body):
        yield re.sub(_CHUNKS, b"", head)
        yield re.sub(_CHUNKS, b"", plain)


def _decoded(head: bytes, body: bytes, limit: int) -> bytes:
    """The body decoded as the headers say, in a copy: a damaged one would take the rest of the archive with it."""
    from fastwarc.warc import WarcRecord

    copy = WarcRecord()
    copy.set_bytes_content(head + body)
    copy.is_http = True
    with as_bad_file("record"):
        copy.parse_http(auto_decode="all")
        return _bounded(copy.reader, limit)


def _bounded(reader: Any, limit: int) -> bytes:
    data = read_up_to(reader, limit)
    if data is None:
        raise BadFile(TOO_LONG)
    return data
