"""Files to documents: one file here per format, and this folder is the menu.

Add a format in three steps: a file with `read(file, log, config) -> Iterator[Piece]`; a row in `READERS`; its ending in
`leanpipe.corpus.sources.file_index.KINDS`. A reader streams, raises BadFile where a file cannot be read on, and notes with `log.skip`
what it passes over. It calls `log.begin` for each record that it comes upon, before it looks into it, so that `read_file` can check
that none is lost.
"""

from collections.abc import Callable, Iterator

from leanpipe.corpus.document import Document, document_id
from leanpipe.corpus.readers import csv, documents, html, jsonl, mail, mbox, parquet, text, warc
from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.stream import Piece
from leanpipe.corpus.readers.unpack import BadFile
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

__all__ = ["READERS", "ReadConfig", "read_file"]

Reader = Callable[[SourceFile, ReadLog, ReadConfig], Iterator[Piece]]

READERS: dict[str, Reader] = {
    "csv": csv.read,
    "html": html.read,
    "jsonl": jsonl.read,
    "mail": mail.read,
    "mbox": mbox.read,
    "parquet": parquet.read,
    "text": text.read,
    "warc": warc.read,
    **dict.fromkeys(documents.DOCUMENT_KINDS, documents.read),
}
"""The reader of each kind of file."""


def read_file(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Document]:
    """Read the documents of a file, one after the other; what is read before a file breaks off is kept.

    What cannot be read goes to `log`: a bad file never ends the run. A network that fails does (ConnectionError,
    TimeoutError), for its files would be good at the next attempt.
    """
    before, unsettled, records = log.bytes_read, log.unsettled, log.records
    for piece in _pieces(file, log, config, unsettled):
        source = file.source if piece.position is None else f"{file.source}#{piece.position}"
        name = document_id(file.corpus, file.source, piece.position or 0)
        log.documents += 1
        yield Document(name, piece.text, source, piece.html)
    _settle(file, log, unsettled, records)
    log.bytes_read = before + file.size
    log.end_of_file(file.source)


def _pieces(file: SourceFile, log: ReadLog, config: ReadConfig, unsettled: int) -> Iterator[Piece]:
    try:
        yield from READERS[file.kind](file, log, config)
        return
    except BadFile as error:
        reason, detail = error.reason, error.detail
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        reason, detail = "not readable", error.strerror or error
    # The record in which the file broke off; or else what would have come after the last one is a record too.
    if log.unsettled == unsettled:
        log.begin()
    log.skip(file.source, reason, detail)


def _settle(file: SourceFile, log: ReadLog, unsettled: int, records: int) -> None:
    """Check, at the end of a file, that each of its records became a document or was skipped."""
    if log.records == records:
        if log.unsettled == unsettled:  # not even a record: say so
            log.skip(file.source, "empty")
        log.begin(unsettled - log.unsettled)  # for a reader that does not count
    if lost := log.unsettled - unsettled:
        log.unaccounted[file.source] = lost
