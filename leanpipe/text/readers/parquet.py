"""Parquet: a row is one document, its text in the first of the text columns that the table has."""

from collections.abc import Iterator
from typing import Any

from leanpipe.text.encodings import decode
from leanpipe.text.listing import SourceFile
from leanpipe.text.readers.config import ReadConfig
from leanpipe.text.readers.stream import TOO_LONG, BadFile, Piece, damage, open_file
from leanpipe.text.readlog import ReadLog

_READ_AHEAD = 1 << 20  # without it a whole column of a row group is loaded at once
_BATCH_BYTES, _BATCH_ROWS = 4 * 2**20, 100  # so that a few very long rows beside many short ones do no harm
_EXPANDS = "expands more than read.max_expansion times"


def read(file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """One piece for each row that holds a text. However large a row group is, only some rows of it are in memory."""
    with damage("Parquet file"), open_file(file) as raw:
        yield from _read(raw, file, log, config)


def _read(raw: Any, file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    import pyarrow.parquet

    before, position = log.bytes_read, 0
    with pyarrow.parquet.ParquetFile(raw, buffer_size=_READ_AHEAD, pre_buffer=False) as table:
        column, leaf = _text_column(table, config)
        for group in range(table.num_row_groups):
            for batch in _batches(table, group, column, leaf, config):
                for value in batch.column(0):
                    yield from _piece(value, position, file, log, config)
                    position += 1
                log.bytes_read = before + file.size * position // table.metadata.num_rows


def _batches(table: Any, group: int, column: str, leaf: int, config: ReadConfig) -> Iterator[Any]:
    """The rows of a row group. Raises BadFile if they unfold to more than `max_expansion` permits."""
    chunk = table.metadata.row_group(group).column(leaf)
    limit = chunk.total_compressed_size * config.max_expansion + config.max_document_bytes
    if chunk.total_uncompressed_size > limit:
        raise BadFile(_EXPANDS, f"row group {group}: {chunk.total_uncompressed_size} bytes")
    mean = chunk.total_uncompressed_size // max(1, chunk.num_values)
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, mean)))
    unfolded = 0
    for batch in table.iter_batches(rows, [group], [column]):
        unfolded += batch.nbytes  # one entry of a dictionary may stand for any number of rows
        if unfolded > limit:
            raise BadFile(_EXPANDS, f"row group {group}: more than {unfolded} bytes")
        yield batch


def _piece(value: Any, position: int, file: SourceFile, log: ReadLog, config: ReadConfig) -> Iterator[Piece]:
    """The text of one cell."""
    data = _bytes(value)
    if data is None:
        log.skip(file.source, "no text in the row", position=position)
    elif len(data) > config.max_document_bytes:
        log.skip(file.source, TOO_LONG, position=position)
    else:
        decoded = decode(data)
        if decoded.repaired:
            log.repair(f"{file.source}#{position}")
        yield Piece(decoded.text, position)


def _bytes(value: Any) -> bytes | None:
    """The bytes of a cell, which a damaged or careless file may have that are no UTF-8."""
    text = getattr(value, "value", value)  # of a dictionary
    return text.as_buffer().to_pybytes() if text is not None and text.is_valid else None


def _text_column(table: Any, config: ReadConfig) -> tuple[str, int]:
    """The name of the first text column, and which of the leaves in the file it is."""
    types = {field.name: field.type for field in table.schema_arrow}
    column = next((name for name in config.text_columns if name in types), None)
    if column is None or not _is_text(types[column]):
        wanted = ", ".join(config.text_columns)
        raise BadFile("no text column", f"it has {', '.join(types)}; none of {wanted} holds text")
    names = [table.schema.column(number).path for number in range(len(table.schema))]
    return column, names.index(column)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
