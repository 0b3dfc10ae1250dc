"""Mails (.eml): a file is one document, its subject as first line, without its attachments."""

import email
import email.header
import html
import re
from collections.abc import Iterator
from email.message import Message
from typing import NamedTuple

from leanpipe.text.encodings import decode
from leanpipe.text.listing import SourceFile
from leanpipe.text.readers.config import ReadConfig
from leanpipe.text.readers.stream import BadFile, Piece, read_whole
from leanpipe.text.readlog import ReadLog

_MAX_SUBJECT = 2000  # characters: Python's search for encoded words is quadratic
_MAX_HEADER = 10_000  # bytes: so is its search for the parameters of a content type
_MAX_WORK = 50_000_000  # lines times boundaries: each line is compared with every boundary that is open
_CONTENT_TYPE = re.compile(rb"^content-[a-z-]+:.*(?:\n[ \t].*)*", re.IGNORECASE | re.MULTILINE)
# RFC 3676: a line that ends with a space goes on in the next, unless it opens a signature.
_SOFT_BREAK = re.compile(r"(?<!\n--) \r?\n(?![>\r\n])")


class _Body(NamedTuple):
    text: str
    html: bool
    repaired: bool


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """One piece: plain text where the mail has it, else HTML."""
    data = read_whole(file, log, config)
    if data is not None:
        yield read_mail(data, file, log)


def read_mail(data: bytes, file: SourceFile, log: ReadLog, position: int | None = None) -> Piece:
    """The text of one mail. Raises BadFile if it has none or is made to be slow."""
    _check_is_bounded(data)
    try:
        message = email.message_from_bytes(data)
        bodies = [body for body in _bodies(message, log) if body.text.strip()]
    except RecursionError as error:
        raise BadFile("damaged mail", "its parts are nested too deep") from error
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


def _check_is_bounded(data: bytes) -> None:
    boundaries = 0
    for found in _CONTENT_TYPE.finditer(data):
        if len(found[0]) > _MAX_HEADER:
            raise BadFile("damaged mail", f"a header of {len(found[0])} bytes")
        boundaries += b"boundary" in found[0].lower()
    if boundaries * data.count(b"\n") > _MAX_WORK:
        raise BadFile("damaged mail", f"{boundaries} boundaries between its parts")


def _bodies(part: Message, log: ReadLog) -> list[_Body]:
    """The texts of a part and of those within it; of alternatives the plain one."""
    if not part.is_multipart():
        return _body(part, log)
    if part.get_content_maintype() != "multipart":  # a mail within the mail
        log.counters["attachments left out"] += 1
        return []
    inside = [_bodies(child, log) for child in part.get_payload() if isinstance(child, Message)]
    if part.get_content_subtype() != "alternative":
        return [body for bodies in inside for body in bodies]
    filled = [bodies for bodies in inside if any(body.text.strip() for body in bodies)]
    plain = [bodies for bodies in filled if not any(body.html for body in bodies)]
    return next(iter(plain + filled), [])


def _body(part: Message, log: ReadLog) -> list[_Body]:
    kind = part.get_content_type()
    if kind not in ("text/plain", "text/html") or part.get_content_disposition() == "attachment":
        log.counters["attachments left out"] += 1
        return []
    payload = part.get_payload(decode=True)
    charset = part.get_content_charset()
    decoded = decode(payload if isinstance(payload, bytes) else b"", charset, html=kind == "text/html")
    flowed = kind == "text/plain" and str(part.get_param("format", "")).lower() == "flowed"
    text = _SOFT_BREAK.sub(" ", decoded.text) if flowed else decoded.text
    return [_Body(text, kind == "text/html", decoded.repaired)]


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
    return decode(word, charset).text if charset else word.decode("raw-unicode-escape", errors="replace")
