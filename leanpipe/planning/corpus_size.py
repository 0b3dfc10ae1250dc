"""How large a corpus is, before it is read."""

from collections.abc import Iterable
from pathlib import Path

from leanpipe.core.allowed_paths import local_path
from leanpipe.corpus.sources.file_index import FileIndex


def listed_bytes(file_indexes: Iterable[Path]) -> int:
    """Of the files in `file_indexes` (see `leanpipe.corpus.sources.file_index`), as they lie there, compressed ones compressed."""
    return sum(file.size for path in file_indexes for file in FileIndex.load(path).files)


def referred_bytes(references: Iterable[str]) -> int:
    """Of the local files and folders among `references`; a corpus with a name, or at a URL, counts as nothing."""
    paths = [path for one in references if (path := local_path(one)) and path.exists()]
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file())
