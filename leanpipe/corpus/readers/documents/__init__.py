"""Documents of word processors, typesetters and notebooks: a file is one document, read by a kept library each.

Add one in three steps: a file here with `text_of_…(data, limits) -> str`, which raises BadFile where there is no text; a row in
`CONVERTERS`; its ending in `leanpipe.corpus.sources.file_index.KINDS`. What the library is lies in `optional_kinds`.
"""

from collections.abc import Iterator

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.documents.bounded_process import NAMES, convert
from leanpipe.corpus.readers.stream import TOO_LONG, BadFile, Piece, open_bytes, read_up_to
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.optional_kinds import NEEDS_EXTRA, is_readable
from leanpipe.corpus.sources.read_log import ReadLog

DOCUMENT_KINDS = tuple(NAMES)
"""The kinds of files that `read` reads."""


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read the whole file as one piece of plain text. Raises BadFile if it is damaged, encrypted or has no text."""
    if not is_readable(file.kind):
        raise BadFile(NEEDS_EXTRA)
    with open_bytes(file, log, config) as stream:
        data = read_up_to(stream, config.max_document_bytes)
    if data is None:
        raise BadFile(TOO_LONG)
    if not data:
        raise BadFile("empty")
    text = convert(file.kind, data, config)
    if not text.strip():
        raise BadFile("no text in the document")
    yield Piece(text)
