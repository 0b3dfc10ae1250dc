"""The Parquet files that cleaning leaves: the same documents give the same bytes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.text.document import Document, Dropped

if TYPE_CHECKING:
    import pyarrow

_BATCH = 1000  # rows per row group


def write_documents(path: Path, documents: Sequence[Document]) -> None:
    """Columns id, text, source; a row per document."""
    import pyarrow

    text = pyarrow.string()
    _write(
        path,
        pyarrow.schema([("id", text), ("text", pyarrow.large_string()), ("source", text)]),
        [[document.id, document.text, _printable(document.source)] for document in documents],
    )


def read_texts(path: Path) -> Iterator[str]:
    """The `text` column of what `write_documents` wrote, a row group at a time."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(columns=["text"], batch_size=_BATCH):
            yield from batch.column(0).to_pylist()


def count_documents(path: Path) -> int:
    """Rows of what `write_documents` wrote."""
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(path).num_rows


def write_dropped(path: Path, dropped: Sequence[Dropped]) -> None:
    """Columns id, source, rule (the config field that was broken), value (what was measured), start (of the text)."""
    import pyarrow

    text = pyarrow.string()
    schema = pyarrow.schema(
        [("id", text), ("source", text), ("rule", text), ("value", pyarrow.float64()), ("start", text)]
    )
    _write(path, schema, [list(row._replace(source=_printable(row.source))) for row in dropped])


def _write(path: Path, schema: "pyarrow.Schema", rows: Sequence[Sequence]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = [
        pyarrow.array([row[number] for row in rows], field.type) for number, field in enumerate(schema)
    ]
    table = pyarrow.Table.from_arrays(columns, schema=schema)
    pyarrow.parquet.write_table(table, path, compression="zstd", row_group_size=_BATCH)


def _printable(name: str) -> str:
    """File names may hold bytes that are no UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")
