"""HTML pages: a file is one document, its markup kept for the extraction of its main text."""

from collections.abc import Iterator

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode
from leanpipe.corpus.readers.stream import Piece, read_whole
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read the whole file as one piece, still HTML."""
    data = read_whole(file, log, config)
    if data is not None:
        decoded = decode(data, html=True)
        if decoded.repaired:
            log.repair(file.source)
        yield Piece(decoded.text, html=True)
