"""Evaluation sets as texts. Every text of a row counts: question, choices, answer, whatever their columns are called."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from leanpipe.core.errors import UserError
from leanpipe.corpus.dedup.word_hashes import word_hashes
from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode
from leanpipe.corpus.readers.stream import BadFile, open_bytes, open_file, open_lines, read_lines, read_whole
from leanpipe.corpus.sources.file_index import COMPRESSIONS, SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_CONFIG = ReadConfig()
_BATCH = 1000  # rows of a Parquet file at once


def read_evaluation_set(path: Path, min_words: int = 8) -> Iterator[tuple[str, str]]:
    """Yield (name of the set, text) for every text in a file, or in all files of a folder that can hold an evaluation set.

    Texts are the strings of each row (.jsonl, .json, .csv, .tsv, .parquet) or the paragraphs (.txt, .md; lines, if no
    line is empty), plain or compressed. A row that has only strings of fewer than `min_words` words is one text.
    Raises UserError where anything cannot be read: what is passed over here would be missed in the corpus.
    """
    for file in _files(path):
        try:
            yield from _texts(file, min_words)
        except BadFile as error:
            detail = f", {error.detail}" if error.detail else ""
            raise UserError(
                f"the evaluation set {file.url} cannot be read ({error.reason}{detail}): mend it or leave it out"
            ) from error


def _files(path: Path) -> list[SourceFile]:
    if not path.exists():
        raise UserError(f"there is nothing at {path}: give the evaluation set's file or folder")
    if path.is_file():
        if file := _file(path, path.name):
            return [file]
        raise UserError(f"the evaluation set {path} is of an unknown kind: give {', '.join(_READERS)}")
    files = [_file(one, str(one.relative_to(path))) for one in sorted(path.rglob("*")) if one.is_file()]
    if found := [file for file in files if file]:
        return found
    raise UserError(f"the evaluation set {path} has no file that can be read: give {', '.join(_READERS)}")


def _file(path: Path, source: str) -> SourceFile | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    kind = suffixes[-1] if suffixes else ""
    if kind not in _READERS or (kind == ".parquet" and compression):
        return None
    return SourceFile(url=str(path.absolute()), source=source, kind=kind, compression=compression)


def _texts(file: SourceFile, min_words: int) -> Iterator[tuple[str, str]]:
    for value in _READERS[file.kind](file):
        for strings in _rows(value):
            long = [text for text in strings if _is_long(text, min_words)]
            for text in long or ["\n".join(strings)]:
                yield file.source, text


def _is_long(text: str, words: int) -> bool:
    """Whether it has about so many words; they are only counted where there may be no spaces between them."""
    return len(text.split()) >= words or (not text.isascii() and len(word_hashes(text)) >= words)


def _rows(value: Any) -> Iterator[list[str]]:
    """The strings of each mapping in `value`, however deep; a string that is in none is a row of its own."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield [value]
        elif isinstance(value, list):
            waiting += reversed(value)
        elif isinstance(value, dict):
            strings, inner = _members(value)
            yield strings
            waiting += reversed(inner)


def _members(row: dict) -> tuple[list[str], list[dict]]:
    """The strings of a mapping, also those in lists, and the mappings within it."""
    strings: list[str] = []
    inner: list[dict] = []
    waiting = list(reversed(row.values()))
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, dict):
            inner.append(value)
        elif isinstance(value, list):
            waiting += reversed(value)
    return strings, inner


def _paragraphs(file: SourceFile) -> Iterator[str]:
    text = decode(_whole(file)).text.replace("\r\n", "\n").strip()
    parts = text.split("\n\n")
    yield from parts if len(parts) > 1 else text.splitlines()


def _json_lines(file: SourceFile) -> Iterator[Any]:
    with open_lines(file, ReadLog(), _CONFIG) as (stream, encoding):
        for number, line in read_lines(stream, _CONFIG.max_document_bytes):
            if line is None:
                raise BadFile(f"line {number + 1} is longer than {_CONFIG.max_document_bytes:,} bytes")
            if line.strip():
                yield _json(decode(line, guessed=encoding).text, f"line {number + 1}")


def _json_whole(file: SourceFile) -> Iterator[Any]:
    yield _json(decode(_whole(file)).text, "the file")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{where} is not JSON", error) from error


def _csv(file: SourceFile, delimiter: str = ",") -> Iterator[Any]:
    before = csv.field_size_limit(_CONFIG.max_document_bytes)
    try:
        with open_bytes(file, ReadLog(), _CONFIG) as stream:
            text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
            rows = csv.reader(text, delimiter=delimiter, strict=True)
            next(rows, None)  # the header
            yield from (dict(enumerate(row)) for row in rows)
    except csv.Error as error:
        raise BadFile("broken row", error) from error
    finally:
        csv.field_size_limit(before)


def _tsv(file: SourceFile) -> Iterator[Any]:
    return _csv(file, "\t")


def _parquet(file: SourceFile) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(file) as raw, pyarrow.parquet.ParquetFile(raw) as table:
            for batch in table.iter_batches(_BATCH):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise BadFile("damaged Parquet file", str(error).partition("\n")[0]) from error


def _whole(file: SourceFile) -> bytes:
    log = ReadLog()
    data = read_whole(file, log, _CONFIG)
    if data is None:
        raise BadFile(log.skipped[-1].reason)
    return data


_READERS: dict[str, Callable[[SourceFile], Iterator[Any]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_whole,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _paragraphs,
    ".md": _paragraphs,
}
