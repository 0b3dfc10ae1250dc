"""Corpora as `clean` is given them: listings of their files."""

from pathlib import Path

from leanpipe.core.store import Artifact
from leanpipe.corpus.sources.file_index import index_corpus
from leanpipe.corpus.sources.read_log import ReadLog


def listed(place: Path | str, folder: Path, number: int = 0) -> Artifact:
    """The listing of what is at `place` now, written into `folder`."""
    return index_corpus(str(place), ReadLog(), corpus=number).artifact(str(place), folder)
