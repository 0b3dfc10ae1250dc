"""Reads a corpus, as the tests of every format do."""

from pathlib import Path

from leanpipe.corpus.document import Document
from leanpipe.corpus.readers import ReadConfig, read_file
from leanpipe.corpus.sources.file_index import index_corpus
from leanpipe.corpus.sources.read_log import ReadLog


def read(place: Path | str, **settings) -> tuple[list[Document], ReadLog]:
    """Its documents, and the log. Every byte and every record is accounted for, and no two documents have one id."""
    log = ReadLog()
    file_index = index_corpus(str(place), log)
    log.begin(len(log.skipped))
    documents = [
        document for file in file_index.files for document in read_file(file, log, ReadConfig(**settings))
    ]
    assert log.bytes_read == log.bytes_total == sum(file.size for file in file_index.files)
    assert log.unsettled == 0 and not log.unaccounted
    assert log.documents == len(documents)
    assert len({document.id for document in documents}) == len(documents)
    return documents, log


def read_one(folder: Path, name: str, data: bytes, **settings) -> tuple[list[str], list[tuple[str, str]]]:
    """The texts in a file of that name and content, and (source, reason) of what was passed over."""
    (folder / name).write_bytes(data)
    documents, log = read(folder / name, **settings)
    return [document.text for document in documents], reasons(log)


def reasons(log: ReadLog) -> list[tuple[str, str]]:
    return [(skipped.source, skipped.reason) for skipped in log.skipped]
