"""Read the records of files with instructions: JSON, JSON lines, CSV, TSV and Parquet, compressed or not."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from leanpipe.core.errors import UserError, refused_if_unreadable

_COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
}
ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
ACCEPTED_FILES = ".json, .jsonl, .csv, .tsv or .parquet"
ANSWERS = "answers.jsonl"
"""The file of conversations that a teacher answered, in what stage `write` makes of instructions."""
_LISTS = ("data", "rows", "examples", "train", "records", "items", "instances")
"""Names under which a file of one object keeps its list of records."""


def instruction_files(path: Path) -> list[Path]:
    """List the files at `path`, or under it in the order of their names. Raises UserError if there are none."""
    if not path.exists():
        raise UserError(
            f"the instructions {path} do not exist: give a {ACCEPTED_FILES} file, or a folder of them"
        )
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in found if _ending(file) in ENDINGS]
    if not files:
        raise UserError(f"{path} holds no {ACCEPTED_FILES} file with instructions")
    return files


def records(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield each record with its place in the file. A line that is no JSON comes as the text it is.

    Raises UserError for a file that is not what its name says.
    """
    ending = _ending(file)
    with refused_if_unreadable(str(file), "make it anew or take it away"):
        if ending == ".parquet":
            yield from _rows(file)
            return
        text = _COMPRESSED.get(file.suffix, bytes)(file.read_bytes()).decode("utf-8-sig", errors="replace")
    if ending in (".csv", ".tsv"):
        yield from _table(text, "\t" if ending == ".tsv" else ",")
    elif ending == ".json" and (whole := _parse(text)) is not text:
        yield from ((f"record {number}", record) for number, record in enumerate(_listed(whole), 1))
    else:  # .json files with one record per line are common
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"line {number}", _parse(line)


def _ending(file: Path) -> str:
    name = file.with_suffix("") if file.suffix in _COMPRESSED else file
    return name.suffix.lower()


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet

    number = 0
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", _without_nothing(row)


def _without_nothing(value: Any) -> Any:
    """Leave out fields that hold nothing: a column of structures has all of them in every row."""
    if isinstance(value, dict):
        return {name: _without_nothing(inner) for name, inner in value.items() if inner is not None}
    return [_without_nothing(inner) for inner in value] if isinstance(value, list) else value


def _table(text: str, separator: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator), 2):
        # What lies beyond the last named column is under None.
        yield f"row {number}", {name.strip(): _cell(value) for name, value in row.items() if name and value}


def _cell(value: str) -> Any:
    """Lists of messages are written into a cell as JSON."""
    return _parse(value) if value.lstrip().startswith(("[{", "[[")) else value


def _listed(whole: Any) -> list[Any]:
    """The records of a file that is one JSON value: a list, an object that holds a list of objects, or one record."""
    if isinstance(whole, dict):
        named = [whole.get(name) for name in _LISTS]
        inner = next((value for value in named if isinstance(value, list) and value), None)
        if inner is not None and all(isinstance(record, dict) for record in inner):
            return inner
    return whole if isinstance(whole, list) else [whole]


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
