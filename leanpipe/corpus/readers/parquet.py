"""Parquet: a row is one document, its text in the first of the text columns that the table has."""

import os
from collections.abc import Iterator
from typing import Any

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode
from leanpipe.corpus.readers.stream import TOO_LONG, BadFile, Piece, open_file
from leanpipe.corpus.readers.unpack import as_bad_file
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.sources.read_log import ReadLog

_READ_AHEAD = 1 << 20  # without it a whole column of a row group is loaded at once
_BATCH_BYTES, _BATCH_ROWS = 4 * 2**20, 100  # so that a few very long rows beside many short ones do no harm
_EXPANDS = "expands more than read.max_expansion times"


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """Read one piece for each row that holds a text. However large a row group is, only some rows of it are in memory."""
    with as_bad_file("Parquet file"), open_file(file) as raw:
        yield from _read(raw, file, log, config)


def _read(raw: Any, file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    import pyarrow.parquet

    before, position = log.bytes_read, 0
    limit = raw.seek(0, os.SEEK_END) * config.max_expansion + config.max_document_bytes
    with pyarrow.parquet.ParquetFile(raw, buffer_size=_READ_AHEAD, pre_buffer=False) as table:
        column, total = _text_column(table, config), max(1, table.metadata.num_rows)
        for batch in _batches(table, column, limit):
            for value in batch.column(0):
                yield from _piece(value, position, file, log, config)
                position += 1
            log.bytes_read = before + file.size * min(position, total) // total


def _batches(table: Any, column: str, limit: int) -> Iterator[Any]:
    """Some rows at a time. Raises BadFile if they unfold to more than `limit` bytes."""
    unfolded = 0
    for number in range(table.num_row_groups):
        # Not of the column: pyarrow aborts the process when it is asked for a column's damaged metadata.
        group = table.metadata.row_group(number)
        if group.total_byte_size > limit:
            raise BadFile(_EXPANDS, f"row group {number} to {group.total_byte_size} bytes")
        mean = max(1, group.total_byte_size // max(1, group.num_rows))
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // mean))
        for batch in table.iter_batches(rows, [number], [column]):
            unfolded += batch.nbytes  # one entry of a dictionary may stand for any number of rows
            if unfolded > limit:
                raise BadFile(_EXPANDS, f"to more than {unfolded} bytes")
            yield batch


def _piece(value: Any, position: int, file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """The text of one cell."""
    cell = getattr(value, "value", value)  # of a dictionary
    data = cell.as_buffer() if cell is not None and cell.is_valid else None
    if data is None:
        log.skip(file.source, "no text in the row", position=position)
    elif len(data) > config.max_document_bytes:
        log.skip(file.source, TOO_LONG, position=position)
    else:
        # A damaged or careless file may hold bytes that are no UTF-8.
        decoded = decode(data.to_pybytes())
        if decoded.repaired:
            log.repair(f"{file.source}#{position}")
        yield Piece(decoded.text, position)


def _text_column(table: Any, config: ReadConfig) -> str:
    """The name of the first text column."""
    types = {field.name: field.type for field in table.schema_arrow}
    column = next((name for name in config.text_columns if name in types), None)
    if column is None or not _is_text(types[column]):
        wanted = ", ".join(config.text_columns)
        raise BadFile("no text column", f"it has {', '.join(types)}; none of {wanted} holds text")
    return column


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
