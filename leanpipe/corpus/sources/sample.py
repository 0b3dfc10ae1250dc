"""A few documents that stand for a corpus, without reading all of it."""

import hashlib
import heapq
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice

from leanpipe.corpus.document import Document
from leanpipe.corpus.readers import ReadConfig, read_file
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_FEWEST, _TIMES = 100, 20  # of a file so many documents are looked at, or so many times those wanted of it


def take_sample(
    files: Sequence[SourceFile],
    wanted: int,
    config: ReadConfig,
    log: ReadLog,
    watch: Callable[[int], None] = lambda number: None,
) -> list[Document]:
    """Draw up to `wanted` documents of as many files as can be: of each file those first whose ids are smallest.

    The same corpus gives the same sample. Of a large file only the beginning is read, and of many files only so many as
    there are documents wanted; in memory there are no more documents than are wanted of all files, and of one.
    `watch` is told how many there are so far.
    """
    chosen: list[tuple[int, str, Document]] = []  # (rank in its file, id, document), those to be kept
    depth = max(_FEWEST, _TIMES * -(-wanted // max(1, len(files))))
    for number, file in enumerate(sorted(files, key=_order), 1):
        documents = _first(file, depth, wanted, config, log)
        ranked = ((rank, document.id, document) for rank, document in enumerate(documents))
        chosen = heapq.nsmallest(wanted, [*chosen, *ranked])
        watch(len(chosen))
        if number >= wanted and len(chosen) == wanted:
            break
    return [document for _, _, document in sorted(chosen, key=lambda one: one[1])]


def _order(file: SourceFile) -> str:
    return hashlib.sha256(f"{file.corpus}/{file.source}".encode(errors="surrogatepass")).hexdigest()


def _first(file: SourceFile, depth: int, wanted: int, config: ReadConfig, log: ReadLog) -> list[Document]:
    """Read the file's first `depth` documents; returns the `wanted` with the smallest ids, in the order of these."""
    with closing(read_file(file, log, config)) as documents:  # type: ignore[type-var]
        sample = heapq.nsmallest(wanted, islice(documents, depth), key=lambda document: document.id)
    log.end_of_file(file.source)
    return sample
