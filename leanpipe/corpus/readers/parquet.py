"""Parquet: a row is one document, its text in the first of the text columns that holds any."""

import os
from collections.abc import Iterator
from typing import Any

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.encodings import decode, is_binary
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
        columns, total = _text_columns(table, config), max(1, table.metadata.num_rows)
        groups = _Groups(table, columns, limit)
        for number in range(table.num_row_groups):
            rows = max(0, table.metadata.row_group(number).num_rows)
            end, fault = (
                position + rows,
                BadFile("damaged Parquet file", f"row group {number} ends too early"),
            )
            try:
                for cells, read in groups.rows_of(number):
                    log.begin()
                    if piece := _piece(cells, position, file, log, config):
                        yield piece
                    position += 1
                    if read:
                        log.bytes_read = before + file.size * min(position, total) // total
            except BadFile as error:
                fault = error
            # What is left of a damaged group is known by its number; the next one may be whole.
            left = range(position, min(end, position + limit))
            if left:
                log.begin(len(left))
                log.skip_rows(file.source, fault.reason, fault.detail, left)
            position = max(position, end)


class _Groups:
    """The rows of a table's groups, some at a time."""

    def __init__(self, table: Any, columns: list[str], limit: int):
        self._table, self._columns, self._limit = table, columns, limit
        self._unfolded = 0

    def rows_of(self, number: int) -> Iterator[tuple[tuple[Any, ...], bool]]:
        """Yield (cells, whether they are the last of those read at once). Raises BadFile where the group is damaged."""
        with as_bad_file("Parquet file"):
            for batch in self._batches(number):
                # The names of columns need not be in the order that was asked for.
                last = batch.num_rows - 1
                cells = zip(*(batch.column(name) for name in self._columns), strict=True)
                for place, row in enumerate(cells):
                    yield row, place == last

    def _batches(self, number: int) -> Iterator[Any]:
        """Some rows at a time. Raises BadFile if all that was read unfolds to more than `limit` bytes."""
        # Not of the columns: pyarrow aborts the process when it is asked for a column's damaged metadata.
        group = self._table.metadata.row_group(number)
        if max(group.total_byte_size, self._unfolded) > self._limit:
            raise BadFile(_EXPANDS, f"row group {number} to {group.total_byte_size} bytes")
        mean = max(1, group.total_byte_size // max(1, group.num_rows))
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // mean))
        for batch in self._table.iter_batches(rows, [number], self._columns):
            self._unfolded += batch.nbytes  # one entry of a dictionary may stand for any number of rows
            if self._unfolded > self._limit:
                raise BadFile(_EXPANDS, f"to more than {self._unfolded} bytes")
            yield batch


def _piece(
    cells: tuple[Any, ...], position: int, file: SourceFile, log: ReadLog, config: ReadConfig
) -> Piece | None:
    """The text of the first cell that holds any."""
    empty, fault = None, "no text in the row"
    for buffer in map(_buffer, cells):
        if buffer is None:
            continue
        if len(buffer) > config.max_document_bytes:
            empty, fault = None, TOO_LONG
            break
        data = buffer.to_pybytes()
        if b"\0" in data and is_binary(data):
            fault = "binary, not text"
            continue
        # A damaged or careless file may hold bytes that are no UTF-8, and a column of bytes any encoding.
        decoded = decode(data)
        if decoded.text and not decoded.text.isspace():
            if decoded.repaired:
                log.repair(f"{file.source}#{position}")
            return Piece(decoded.text, position)
        empty = decoded.text if empty is None else empty
    if empty is None:
        log.skip(file.source, fault, position=position)
        return None
    return Piece(empty, position)


def _buffer(cell: Any) -> Any:
    """The bytes of a cell; None where there are none."""
    value = getattr(cell, "value", cell)  # of a dictionary
    return value.as_buffer() if value is not None and value.is_valid else None


def _text_columns(table: Any, config: ReadConfig) -> list[str]:
    """The names of the text columns that can hold text, in the order that counts."""
    types = {field.name: field.type for field in table.schema_arrow}
    columns = [name for name in config.text_columns if name in types and _is_text(types[name])]
    if not columns:
        wanted = ", ".join(config.text_columns)
        raise BadFile("no text column", f"it has {', '.join(types)}; none of {wanted} holds text")
    return columns


def _is_text(kind: Any) -> bool:
    """Whether a column holds text, or bytes that may be text."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
        types.is_fixed_size_binary,
    )
    return any(test(kind) for test in tests)
