"""Rows of one length appended to a .npy file whose number of rows is known only at the end."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from leanpipe.core.files import sync

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class RowWriter:
    """Writes an array of shape (rows, `width`). The file appears at `path` when it is whole, or not without rows."""

    def __init__(self, path: Path, width: int, kind: "DTypeLike"):
        self._path, self._partial = path, path.with_suffix(".part")
        self._width, self._kind, self._rows = width, np.dtype(kind), 0
        path.parent.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "RowWriter":
        self._file = self._partial.open("wb")
        self._write_header()
        return self

    def append(self, rows: np.ndarray) -> None:
        """Add `rows`, of shape (n, `width`)."""
        self._file.write(np.ascontiguousarray(rows, self._kind).data)
        self._rows += len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()
        if kind or not self._rows:
            self._partial.unlink()
            return
        sync(self._partial)
        self._partial.rename(self._path)

    def _write_header(self) -> None:
        """numpy leaves room in its headers for the number of rows to grow, so both have the same length."""
        shape = (self._rows, self._width)
        header = {"descr": self._kind.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
