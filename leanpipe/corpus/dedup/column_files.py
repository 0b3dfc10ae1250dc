"""Numbers of documents as plain files: appended to while a shard is read, and mapped, never loaded, afterwards."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


class ColumnWriter:
    """Appends arrays to a file."""

    def __init__(self, path: Path, kind: "DTypeLike"):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._kind = np.dtype(kind)
        self._file: BinaryIO = path.open("wb")

    def append(self, values: "NDArray | Sequence[int]") -> None:
        """Add `values` at the end of the file."""
        self._file.write(np.ascontiguousarray(values, self._kind).tobytes())

    def close(self) -> None:
        """Close the file: only now all of it is there."""
        self._file.close()


def read_column(path: Path, kind: "DTypeLike", width: int = 0) -> "NDArray":
    """Map what was appended to `path` into memory: of shape (n,), or (n, width) if a width is given."""
    kind = np.dtype(kind)
    count = path.stat().st_size // kind.itemsize if path.exists() else 0
    shape = (count // width, width) if width else (count,)
    return np.memmap(path, kind, "r", shape=shape) if count else np.empty(shape, kind)
