"""Finds a document in what `clean` wrote, by whatever a person knows of it: id, digest, path or a phrase."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from leanpipe.core.errors import UserError
from leanpipe.core.files import expanded
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.tables import split_files

if TYPE_CHECKING:
    import pyarrow

CORPUS = "corpus.json"
"""In the report of `clean`: where the corpora lay that it read, as a list of paths."""
_HEX = re.compile(r"[0-9a-fA-F]{8,64}")
_POSITION = r"#\d+$"
_LONGEST = 1000  # characters of a phrase
_LARGEST = 100_000_000  # bytes of a file that is digested to find it again under another name

Mask = Callable[["pyarrow.Table"], "pyarrow.ChunkedArray"]
"""Which rows of a table are meant."""


class AccountRow(NamedTuple):
    """One row of the account: see `leanpipe.corpus.tables.ACCOUNT`."""

    id: str
    source: str
    digest: str
    outcome: str
    rule: str
    value: float
    split: str
    language: str
    characters_read: int
    characters: int
    redactions: int
    detail: str

    @property
    def copy_of(self) -> str:
        """Return the id of the document that it repeats, if it was dropped for that; else nothing."""
        return self.detail.removeprefix("of ").strip() if self.rule.startswith("duplicates.") else ""


def find_exactly(documents: Path, wanted: str) -> Iterator[AccountRow]:
    """Find rows whose id or digest begins with `wanted` (8 hex digits or more), or whose file it is, wherever that lies now.

    `documents` is what `clean` wrote; a path is compared with where its corpora lay.
    """
    import pyarrow.compute as pc

    sources = _below(wanted, _roots(documents))
    digest = _digest(expanded(wanted))

    def mask(rows: "pyarrow.Table") -> "pyarrow.ChunkedArray":
        found = _is_source(rows["source"], sources)
        if digest:
            found = pc.or_(found, pc.equal(rows["digest"], digest))
        if _HEX.fullmatch(wanted):
            for column in ("id", "digest"):
                found = pc.or_(found, pc.starts_with(rows[column], wanted.lower()))
        return found

    return _rows(documents, ["id", "digest", "source"], mask)


def find_by_path(documents: Path, wanted: str) -> Iterator[AccountRow]:
    """Find rows whose source is the end of the path `wanted`, or ends with it; `#3` at its end means that document of the file."""
    import pyarrow.compute as pc

    parts = PurePosixPath(wanted).parts
    ends = ["/".join(parts[start:]).lstrip("/") for start in range(len(parts))]

    def mask(rows: "pyarrow.Table") -> "pyarrow.ChunkedArray":
        files = pc.replace_substring_regex(rows["source"], _POSITION, "")
        longer = pc.or_(
            *(pc.ends_with(names, f"/{wanted.lstrip('./')}") for names in (rows["source"], files))
        )
        return pc.or_(_is_source(rows["source"], ends), longer)

    return _rows(documents, ["source"], mask) if ends else iter(())


def find_by_phrase(documents: Path, wanted: str, most: int) -> Iterator[AccountRow]:
    """Find up to `most` kept documents with the phrase in their text, then dropped ones with it in their detail.

    Case and white space do not matter. RE2 searches in linear time. Raises UserError for a phrase over 1,000 characters.
    """
    import pyarrow
    import pyarrow.compute as pc

    if len(wanted) > _LONGEST:
        raise UserError(
            f"the phrase has {len(wanted)} characters: {_LONGEST} are enough to find a document by"
        )
    pattern = r"\s+".join(map(re.escape, wanted.split()))
    if not pattern:
        return
    ids = _kept_with(documents, pattern, most)
    if ids:
        yield from _rows(documents, ["id"], lambda rows: pc.is_in(rows["id"], pyarrow.array(ids)))
    yield from _rows(
        documents,
        ["outcome", "detail"],
        lambda rows: pc.and_(
            pc.equal(rows["outcome"], "dropped"),
            pc.match_substring_regex(rows["detail"], pattern, ignore_case=True),
        ),
    )


def _kept_with(documents: Path, pattern: str, most: int) -> list[str]:
    import pyarrow.compute as pc

    ids: list[str] = []
    for path in (path for split in SPLITS for path in split_files(documents, split)):
        for rows in _groups(path, ["id", "text"]):
            mask = pc.match_substring_regex(rows["text"], pattern, ignore_case=True)
            ids += rows["id"].filter(mask).to_pylist()
            if len(ids) >= most:
                return ids[:most]
    return ids


def _rows(documents: Path, columns: list[str], mask: Mask) -> Iterator[AccountRow]:
    """The rows of the account for which `mask`, which looks at `columns`, is true. Others are not read whole."""
    import pyarrow.parquet

    for path in sorted((documents / "account").glob("*.parquet")):
        with pyarrow.parquet.ParquetFile(path) as table:
            for group in range(table.num_row_groups):
                found = mask(table.read_row_group(group, columns))
                if any(chunk.true_count for chunk in found.chunks):
                    rows = table.read_row_group(group, list(AccountRow._fields)).filter(found)
                    yield from (AccountRow(**row) for row in rows.to_pylist())


def _groups(path: Path, columns: list[str]) -> Iterator["pyarrow.Table"]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as table:
        yield from (table.read_row_group(group, columns) for group in range(table.num_row_groups))


def _is_source(sources: "pyarrow.ChunkedArray", names: Sequence[str]) -> "pyarrow.ChunkedArray":
    import pyarrow
    import pyarrow.compute as pc

    known = pyarrow.array(names, pyarrow.string())
    files = pc.replace_substring_regex(sources, _POSITION, "")
    return pc.or_(pc.is_in(sources, known), pc.is_in(files, known))


def _below(wanted: str, roots: Sequence[str]) -> list[str]:
    """What the path would be called in each of the corpora at `roots`; a corpus may be a single file."""
    path = str(expanded(wanted).absolute())
    names = []
    for root in (one.rstrip("/") for one in roots):
        if path.startswith(f"{root}/"):
            names.append(path.removeprefix(f"{root}/"))
        elif path == root or path.startswith(f"{root}#"):
            names.append(path.rpartition("/")[2])
    return [wanted, *names]


def _roots(documents: Path) -> list[str]:
    path = documents / "report" / CORPUS
    return json.loads(path.read_text()) if path.exists() else []


def _digest(path: Path) -> str:
    """What the account would say of the text in the file, if it is UTF-8 and one document."""
    try:
        if path.is_file() and path.stat().st_size <= _LARGEST:
            return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # a phrase may be too long for a name
        pass
    return ""
