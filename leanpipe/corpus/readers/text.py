"""Plain text and Markdown: a file is one document, or each of its lines is."""

from collections.abc import Iterator

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode
from leanpipe.corpus.readers.stream import TOO_LONG, Piece, open_lines, read_lines, read_whole
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read one piece, or one for each line that is not blank."""
    if config.text_files == "lines":
        yield from _read_lines(file, log, config)
        return
    data = read_whole(file, log, config)
    if data is not None:
        decoded = decode(data)
        if decoded.repaired:
            log.repair(file.source)
        yield Piece(decoded.text)


def _read_lines(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    with open_lines(file, log, config) as (stream, encoding):
        for number, line in read_lines(stream, config.max_document_bytes):
            if line is None:
                log.begin()
                log.skip(file.source, TOO_LONG, position=number)
            elif line.strip():
                log.begin()
                decoded = decode(line, guessed=encoding)
                if decoded.repaired:
                    log.repair(f"{file.source}#{number}")
                yield Piece(decoded.text.rstrip("\r\n"), number)
