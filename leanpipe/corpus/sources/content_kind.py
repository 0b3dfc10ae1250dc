"""What kind of file one is whose name does not say it, told by how it begins."""

import re
from pathlib import PurePath

from leanpipe.corpus.sources.read_log import ReadLog

# Endings that programs give to files whatever is in them.
_SAYING_NOTHING = frozenset((".data", ".dat", ".raw", ".dump", ".export", ".out", ".part", ".download"))
_NUMBERED = re.compile(
    r"\.\d{3,}|\.\w*[^\w.].*|\.\w{17,}"
)  # parts of a file, names of mails in a folder of mails
_MAIL_HEADERS = frozenset(
    b"from to subject date message-id received return-path mime-version delivered-to reply-to".split()
)
_HEADERS = re.compile(rb"(?:([!-9;-~]+):.*\r?\n(?:[ \t].*\r?\n)*)+\r?\n")
_HEADER = re.compile(rb"^([!-9;-~]+):", re.MULTILINE)
_HTML = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*|<!--(?:(?!-->).)*-->\s*)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_JSON = re.compile(rb'\s*(?:\{\s*"|\[\s*(?:\{\s*"|"))')
_MAILBOX = re.compile(rb"From \S+.*\r?\n[!-9;-~]+:")
_DELIMITERS = re.compile(rb"[,;\t|]")
_TEXT_COLUMNS, _LONGEST_NAME = {b"text", b"content"}, 100


def says_nothing(name: str) -> bool:
    """Whether a file's name, without the ending of its compression, leaves open what is in it."""
    ending = PurePath(name).suffix.lower()
    return not ending or ending in _SAYING_NOTHING or bool(_NUMBERED.fullmatch(ending))


def kind_of_content(url: str) -> str | None:
    """Tell the reader for the file at `url` by its first bytes; None if it holds no text. Raises OSError if it cannot be read."""
    # Only here, for readers need the index of files.
    from leanpipe.corpus.readers.config import ReadConfig
    from leanpipe.corpus.readers.encodings import SAMPLE, is_binary, wide_encoding
    from leanpipe.corpus.readers.stream import open_bytes
    from leanpipe.corpus.readers.unpack import BadFile
    from leanpipe.corpus.sources.file_index import SourceFile

    try:
        with open_bytes(SourceFile(url=url, source="", kind=""), ReadLog(), ReadConfig()) as stream:
            head = stream.peek(SAMPLE)[:SAMPLE]
    except BadFile:
        return None
    if head.startswith(b"PAR1"):
        return "parquet"
    if is_binary(head):
        return None
    wide = wide_encoding(head)
    return _kind_of_text(head.decode(wide, errors="replace").encode() if wide else head)


def _kind_of_text(head: bytes) -> str:
    head = head.removeprefix(b"\xef\xbb\xbf")
    if head.startswith(b"WARC/"):
        return "warc"
    if _MAILBOX.match(head):
        return "mbox"
    if _HTML.match(head):
        return "html"
    if _JSON.match(head):
        return "jsonl"
    if _is_mail(head):
        return "mail"
    return "csv" if _is_table(head) else "text"


def _is_mail(head: bytes) -> bool:
    """Whether it begins with headers, two of them those of mails."""
    headers = _HEADERS.match(head)
    names = {name.lower() for name in _HEADER.findall(headers[0])} if headers else set()
    return len(names & _MAIL_HEADERS) >= 2


def _is_table(head: bytes) -> bool:
    """Whether its first line names columns, and one of them is for text."""
    first = head.partition(b"\n")[0]
    names = [name.strip(b' "\r') for name in _DELIMITERS.split(first)]
    named = len(names) > 1 and all(len(name) <= _LONGEST_NAME for name in names)
    return named and not _TEXT_COLUMNS.isdisjoint(names)
