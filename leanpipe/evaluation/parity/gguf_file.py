"""A GGUF file opened to be checked: whatever is wrong with it is one sentence."""

from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.models.offload import GGUF_FILE

if TYPE_CHECKING:
    from gguf import GGUFReader


def read_gguf(folder: Path) -> "GGUFReader":
    """Open the GGUF file in a model folder. Raises UserError if it is damaged."""
    from gguf import GGUFReader

    try:
        return GGUFReader(folder / GGUF_FILE)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(
            f"{folder / GGUF_FILE} cannot be read as GGUF ({error}): the file is damaged or cut short; make it again"
        ) from error
