"""A GGUF file opened to be read: whatever is wrong with it is one sentence."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.models.offload import GGUF_FILE

if TYPE_CHECKING:
    from gguf import GGUFReader


def read_gguf(folder: Path) -> "GGUFReader":
    """Open the GGUF file in a model folder. Raises UserError if it is damaged."""
    file = folder / GGUF_FILE
    try:
        state = file.stat()
        return _read(file, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(
            f"{file} cannot be read as GGUF ({error}): the file is damaged or cut short; make it again"
        ) from error


# Engines and checks read it one after the other, and reading a vocabulary takes seconds.
@functools.lru_cache(1)
def _read(file: Path, changed: int, size: int) -> "GGUFReader":
    from gguf import GGUFReader

    return GGUFReader(file)
