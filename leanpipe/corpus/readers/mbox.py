"""Mailboxes (.mbox): a file of many mails, each of which is one document."""

import re
from collections.abc import Iterator
from typing import Any

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.mail import read_mail
from leanpipe.corpus.readers.stream import TOO_LONG, BadFile, Piece, open_bytes, read_lines
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_BLANK = (b"\n", b"\r\n")
_QUOTED = re.compile(rb">+From ")  # what would otherwise have looked like a separator
_SEPARATOR = b"From "  # at the start of a line that follows an empty one (RFC 4155)


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read one piece for each mail that holds text."""
    with open_bytes(file, log, config) as stream:
        start = stream.peek(len(_SEPARATOR))
        if not start.startswith(_SEPARATOR):
            raise BadFile(
                "no mailbox" if start else "empty", "its first line does not begin with From" if start else ""
            )
        for position, data in enumerate(_mails(stream, config.max_document_bytes)):
            log.begin()
            if data is None:
                log.skip(file.source, TOO_LONG, position=position)
                continue
            try:
                yield read_mail(data, file, log, position)
            except BadFile as error:
                log.skip(file.source, error.reason, error.detail, position)


def _mails(stream: Any, limit: int) -> Iterator[bytes | None]:
    """The bytes of each mail; None instead of one longer than `limit`."""
    stream.readline(limit)
    mail: list[bytes] = []
    size, blank = 0, False
    for _, line in read_lines(stream, limit):
        if blank and line and line.startswith(_SEPARATOR):
            yield b"".join(mail) if size <= limit else None
            mail, size, blank = [], 0, False
            continue
        size += limit + 1 if line is None else len(line)
        blank = line in _BLANK
        if line is None or size > limit:
            mail = []
        else:
            mail.append(line[1:] if line[:1] == b">" and _QUOTED.match(line) else line)
    yield b"".join(mail) if size <= limit else None
