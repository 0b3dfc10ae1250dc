"""Mails (.eml): a file is one document, its subject as first line, with the mails within it, without its attachments."""

import email
import email.header
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import NamedTuple

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode
from leanpipe.corpus.readers.stream import BadFile, Piece, read_whole
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_MAX_SUBJECT = 2000  # characters: Python's search for encoded words is quadratic
_MAX_HEADERS = 200_000  # bytes of all headers of a part
_MAX_TYPE = 10_000  # characters: so is its search for the parameters of a content type
# Files, not text; and Python needs 80 times their size to decode them.
_UUENCODED = ("uuencode", "x-uuencode", "uue", "x-uue")
_MAILS = ("message/rfc822", "message/global", "message/news")
_MAX_PARTS, _MAX_DEPTH = 1000, 20
# A name and a colon, or the rest of the line before; the first line that is neither ends the headers.
_HEADERS = re.compile(rb"(?:From .*\n)?(?:(?:[!-9;-~]+[ \t]*:|[ \t]).*(?:\n|\Z))*")
_EMPTY_LINES = re.compile(rb"\A(?:[ \t]*\r?\n)+")
_EMPTY_LINE = re.compile(rb"\r?\n")
# RFC 3676: a line that ends with a space goes on in the next, unless it opens a signature.
_SOFT_BREAK = re.compile(r"(?<!\n--) \r?\n(?![>\r\n])")


class _Body(NamedTuple):
    text: str
    html: bool
    repaired: bool


@dataclass
class _Counts:
    """How much of one mail was looked at."""

    parts: int = 0
    attachments: int = 0


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read one piece: plain text where the mail has it, else HTML."""
    data = read_whole(file, log, config)
    if data is not None:
        yield read_mail(data, file, log)


def read_mail(data: bytes, file: SourceFile, log: ReadLog, position: int | None = None) -> Piece:
    """Find the text of one mail. Raises BadFile if it has none or is made to be slow."""
    counts, (message, content) = _Counts(), _split(data)
    bodies = [body for body in _bodies(message, content, 0, counts) if body.text.strip()]
    if counts.attachments:
        log.counters["attachments left out"] += counts.attachments
    if not bodies:
        raise BadFile("no text in the mail")
    if any(body.repaired for body in bodies):
        log.repair(file.source if position is None else f"{file.source}#{position}")
    return _join(_subject(message), bodies, position)


def _join(subject: str, bodies: list[_Body], position: int | None) -> Piece:
    if not any(body.html for body in bodies):
        return Piece("\n\n".join([*filter(None, [subject]), *(body.text for body in bodies)]), position)
    title = [f"<h1>{html.escape(subject)}</h1>"] if subject else []
    parts = [body.text if body.html else f"<pre>{html.escape(body.text)}</pre>" for body in bodies]
    return Piece("\n".join(title + parts), position, html=True)


def _bodies(part: Message, content: bytes, depth: int, counts: _Counts) -> list[_Body]:
    """The texts of a part and of those within it; of alternatives the plain one."""
    counts.parts += 1
    if counts.parts > _MAX_PARTS or depth > _MAX_DEPTH:
        raise BadFile("damaged mail", f"more than {_MAX_PARTS} parts, or {_MAX_DEPTH} within each other")
    kind = part.get_content_type()
    if kind in _MAILS and not _is_uuencoded(part):
        return _mail_within(_unpacked(part, content), depth, counts)
    boundary = part.get_boundary() if kind.startswith("multipart/") else None
    if not boundary:
        return _body(part, kind, content, counts)
    inside = [
        _bodies(*_typed(*_split(child), kind), depth + 1, counts) for child in _children(content, boundary)
    ]
    if kind != "multipart/alternative":
        return [body for bodies in inside for body in bodies]
    filled = [bodies for bodies in inside if any(body.text.strip() for body in bodies)]
    plain = [bodies for bodies in filled if not any(body.html for body in bodies)]
    return next(iter(plain + filled), [])


def _mail_within(content: bytes, depth: int, counts: _Counts) -> list[_Body]:
    """The texts of a mail that another holds, as a forward or in a digest, under its subject."""
    message, inside = _split(_EMPTY_LINES.sub(b"", content, count=1))
    bodies = [body for body in _bodies(message, inside, depth + 1, counts) if body.text.strip()]
    subject = _subject(message)
    return [_Body(subject, html=False, repaired=False), *bodies] if subject and bodies else bodies


def _typed(part: Message, content: bytes, around: str) -> tuple[Message, bytes]:
    """The part; in a digest one that does not say its type is a mail (RFC 2046, section 5.1.5)."""
    if around == "multipart/digest" and "Content-Type" not in part:
        # Careless programs leave out the empty line before its headers.
        content = content if not part.keys() else part.as_bytes() + content
        part = Message()
        part["Content-Type"] = _MAILS[0]
    return part, content


def _split(data: bytes) -> tuple[Message, bytes]:
    """The headers of a part, and its content. Python's own parser goes through every line of the content, at 3 MB/s."""
    found = _HEADERS.match(data, 0, _MAX_HEADERS)
    end = found.end() if found else 0
    if end == _MAX_HEADERS:
        raise BadFile("damaged mail", f"more than {_MAX_HEADERS} bytes of headers")
    part = email.message_from_bytes(data[:end])
    if len(str(part.get("Content-Type", ""))) > _MAX_TYPE:
        raise BadFile("damaged mail", f"more than {_MAX_TYPE} characters in a content type")
    empty = _EMPTY_LINE.match(data, end)
    return part, data[empty.end() if empty else end :]


def _children(content: bytes, boundary: str) -> Iterator[bytes]:
    """What stands between the boundaries (RFC 2046, section 5.1.1), also if the last one is missing."""
    line = re.compile(
        rb"(?:\A|\r?\n)--" + re.escape(boundary.encode(errors="replace")) + rb"(--)?[ \t]*\r?(?:\n|\Z)"
    )
    start = None
    for found in line.finditer(content):
        if start is not None:
            yield content[start : found.start()]
        if found[1]:
            return
        start = found.end()
    if start is not None:
        yield content[start:]


def _body(part: Message, kind: str, content: bytes, counts: _Counts) -> list[_Body]:
    if (
        kind not in ("text/plain", "text/html")
        or part.get_content_disposition() == "attachment"
        or _is_uuencoded(part)
    ):
        counts.attachments += 1
        return []
    decoded = decode(_unpacked(part, content), part.get_content_charset(), html=kind == "text/html")
    flowed = kind == "text/plain" and str(part.get_param("format", "")).lower() == "flowed"
    text = _SOFT_BREAK.sub(" ", decoded.text) if flowed else decoded.text
    return [_Body(text, kind == "text/html", decoded.repaired)]


def _is_uuencoded(part: Message) -> bool:
    return str(part.get("Content-Transfer-Encoding", "")).strip().lower() in _UUENCODED


def _unpacked(part: Message, content: bytes) -> bytes:
    """The content of a part without its transfer encoding."""
    leaf = Message()
    leaf["Content-Transfer-Encoding"] = str(part.get("Content-Transfer-Encoding", ""))
    leaf.set_payload(content.decode("ascii", errors="surrogateescape"))
    payload = leaf.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _subject(message: Message) -> str:
    raw = next((value for name, value in message.raw_items() if name.lower() == "subject"), "")
    text = decode(str(raw)[:_MAX_SUBJECT].encode("ascii", errors="surrogateescape")).text
    try:
        parts = email.header.decode_header(text)
    except email.errors.HeaderParseError:
        parts = [(text, None)]
    return " ".join("".join(_word(*part) for part in parts).split())


def _word(word: bytes | str, charset: str | None) -> str:
    if isinstance(word, str):
        return word
    if charset:
        return decode(word, charset).text
    # So Python writes what stands between encoded words; it may spell half a surrogate pair.
    return word.decode("raw-unicode-escape", errors="replace").encode(errors="replace").decode()
