"""Which documents belong together: those of one group say less than as many independent ones."""

import csv
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from leanpipe.core.allowed_paths import Roots
from leanpipe.core.errors import UserError
from leanpipe.corpus.tables import read_batches, split_files

DOCUMENT, FILE, FOLDER = "document", "file", "folder"


class Units(NamedTuple):
    """What the units of a comparison are."""

    groups: dict[str, str]
    """The group of each held-out document, by its id."""
    name: str
    """What a unit is called, in the plural."""


EACH_DOCUMENT = Units({}, "documents")


def read_units(by: str, documents: Path) -> Units:
    """The groups of the split `test` of the cleaned corpus `documents`.

    Raises UserError if `by` is a table that cannot be read, or that leaves out a held-out document.
    """
    if by == DOCUMENT:
        return EACH_DOCUMENT
    files = split_files(documents, "test")
    rows = [
        row for path in files for batch in read_batches(path, ["id", "source"]) for row in batch.to_pylist()
    ]
    sources = {row["id"]: row["source"] for row in rows}
    if by == FILE:
        return Units({id: _file(source) for id, source in sources.items()}, "files")
    if by == FOLDER:
        folders = {id: str(PurePosixPath(_file(source)).parent) for id, source in sources.items()}
        return Units(folders, "folders")
    known = read_groups(Path(by))
    groups = {id: _group(source, known) for id, source in sources.items()}
    check_groups([sources[id] for id, group in groups.items() if not group], by)
    return Units(groups, "groups")


def check_unit(by: str) -> None:
    """Raise UserError if `by` is neither known nor a table of groups that can be read."""
    if by not in (DOCUMENT, FILE, FOLDER):
        read_groups(Path(by))


def read_groups(path: Path) -> dict[str, str]:
    """A person's own groups: the columns `source` and `group` of a CSV file. Raises UserError if it is none."""
    Roots.from_environment().check("registration.unit", str(path))
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            missing = {"source", "group"} - set(table.fieldnames or ())
            rows = [] if missing else [(row["source"], row["group"]) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"registration.unit is neither document, file nor folder, nor a CSV file that can be read: {path} ({error})"
        ) from error
    if missing:
        raise UserError(
            f"{path} lacks the column {' and '.join(sorted(missing))}: registration.unit takes a CSV file with the columns "
            "source and group"
        )
    return {source: group for source, group in rows if source and group}


def check_groups(without: Collection[str], path: str) -> None:
    """Raise UserError if there are sources that have no group."""
    if without:
        first = ", ".join(sorted(without)[:3])
        raise UserError(
            f"{path} has no group for {len(without)} held-out documents ({first}): add a row for each, with its source as "
            "the corpus has it, or the file's name alone"
        )


def _group(source: str, known: dict[str, str]) -> str:
    return known.get(source) or known.get(_file(source), "")


def _file(source: str) -> str:
    """A source's file: a record of one is named `file#record`."""
    return source.rpartition("#")[0] or source
