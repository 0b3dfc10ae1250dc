"""The Parquet files that cleaning leaves: the same documents give the same bytes, and nobody needs all of them in memory."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

_BATCH = 1000  # rows per row group

ACCOUNT = {
    "id": "string",
    "source": "string",
    "digest": "string",
    "outcome": "string",
    "rule": "string",
    "value": "float64",
    "split": "string",
    "language": "string",
    "characters_read": "int64",
    "characters": "int64",
    "redactions": "int64",
    "detail": "string",
}
"""Columns of `account/`: one row per document that was read, kept or dropped, and why."""
DOCUMENTS = {"id": "string", "text": "large_string", "source": "string", "language": "string"}
"""Columns of `train/`, `validation/` and `test/`."""
SKIPPED = {"source": "string", "reason": "string", "detail": "string"}
"""Columns of `skipped.parquet`: files, or lines of them, that could not be read."""


class TableWriter:
    """Writes rows to a Parquet file, a row group at a time. A file without rows is not written."""

    def __init__(self, path: Path, columns: Mapping[str, str]):
        self._path = path
        self._columns = columns
        self._rows: list[Mapping[str, Any]] = []
        self._writer: Any = None

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        if self._writer:
            self._writer.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row; its keys are the columns."""
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._flush()

    def write_batch(self, batch: "pyarrow.RecordBatch") -> None:
        """Add rows that were read from such a table."""
        import pyarrow

        self._flush()
        self._write(pyarrow.Table.from_batches([batch]))

    def _flush(self) -> None:
        if not self._rows:
            return
        import pyarrow

        schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in self._columns.items()])
        columns = [_array([row[field.name] for row in self._rows], field.type) for field in schema]
        self._write(pyarrow.Table.from_arrays(columns, schema=schema))
        self._rows = []

    def _write(self, table: "pyarrow.Table") -> None:
        import pyarrow.parquet

        if not self._writer:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pyarrow.parquet.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)


def split_files(documents: Path, split: str) -> list[Path]:
    """List the Parquet files of a split ("train", "validation", "test") in what `clean` wrote to `documents`, in order."""
    return sorted((documents / split).glob("*.parquet"))


def read_texts(documents: Path, split: str) -> Iterator[str]:
    """Yield every text of a split, a row group in memory at a time."""
    for path in split_files(documents, split):
        yield from read_column(path, "text")


def read_column(path: Path, column: str) -> Iterator[Any]:
    """Yield the values of one column of a Parquet file, a row group in memory at a time."""
    for batch in read_batches(path, [column]):
        yield from batch.column(0).to_pylist()


def read_batches(path: Path, columns: list[str] | None = None) -> Iterator["pyarrow.RecordBatch"]:
    """Yield the rows of a Parquet file, a row group at a time; a file that is not there has none."""
    import pyarrow.parquet

    if not path.exists():
        return

    with pyarrow.parquet.ParquetFile(path) as table:
        for group in range(table.num_row_groups):
            yield from table.iter_batches(row_groups=[group], columns=columns, batch_size=_BATCH)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file as dictionaries, a batch in memory at a time."""
    for batch in read_batches(path):
        yield from batch.to_pylist()


def count_documents(documents: Path, split: str) -> int:
    """Count the rows of all files of a split."""
    import pyarrow.parquet

    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in split_files(documents, split))


def read_account(documents: Path) -> Iterator["pyarrow.RecordBatch"]:
    """Yield the account of every document that was read, in batches with the columns `ACCOUNT`."""
    for path in sorted((documents / "account").glob("*.parquet")):
        yield from read_batches(path)


def _array(values: list[Any], kind: "pyarrow.DataType") -> "pyarrow.Array":
    import pyarrow

    try:
        return pyarrow.array(values, kind)
    except UnicodeEncodeError:
        return pyarrow.array([printable(value) for value in values], kind)


def printable(value: Any) -> Any:
    """Return text as UTF-8 can hold it: names of files may hold bytes that are none, and texts half of a surrogate pair."""
    if not isinstance(value, str):
        return value
    try:
        return value.encode(errors="surrogateescape").decode(errors="replace")
    except UnicodeEncodeError:
        return value.encode(errors="replace").decode(errors="replace")
