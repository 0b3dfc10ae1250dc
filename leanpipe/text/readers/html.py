"""HTML pages: a file is one document, its markup kept for the extraction of its main text."""

from collections.abc import Iterator

from leanpipe.text.encodings import decode
from leanpipe.text.listing import SourceFile
from leanpipe.text.readers.config import ReadConfig
from leanpipe.text.readers.stream import Piece, read_whole
from leanpipe.text.readlog import ReadLog


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """One piece, still HTML."""
    data = read_whole(file, log, config)
    if data is not None:
        decoded = decode(data, html=True)
        if decoded.repaired:
            log.repair(file.source)
        yield Piece(decoded.text, html=True)
