"""Text to train a tokenizer on, or to calibrate by: read again for every pass, never all in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leanpipe.corpus.tables import read_texts, split_files
from leanpipe.tokens.encode import split_long_texts


@dataclass(frozen=True)
class TrainingTextSample:
    """Yields about `limit` bytes of a split of `documents`, by default the training text, evenly from all of it.

    Can be iterated again.

    Very long texts come in parts, for a tokenizer needs many times a text's size to take it in.
    """

    documents: Path
    limit: int
    split: str = "train"

    def __iter__(self) -> Iterator[str]:
        share = self.limit / max(1, _text_bytes(self.documents, self.split))
        taken = seen = 0
        for part in split_long_texts(read_texts(self.documents, self.split)):
            if share >= 1 or taken <= share * seen:
                taken += len(part.text)
                yield part.text
            seen += len(part.text)


def _text_bytes(documents: Path, split: str) -> int:
    """Size of the text of a split as Parquet's footers tell it."""
    import pyarrow.parquet

    footers = (pyarrow.parquet.read_metadata(path) for path in split_files(documents, split))
    columns = (
        footer.row_group(group).column(index)
        for footer in footers
        for group in range(footer.num_row_groups)
        for index in range(footer.num_columns)
    )
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "text")
