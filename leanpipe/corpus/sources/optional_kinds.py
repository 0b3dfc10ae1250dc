"""Kinds of files whose readers need a package that not everyone has, and what is said where it is missing."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from leanpipe.corpus.sources.read_log import Skipped

NEEDED_PACKAGES = {"docx": "mammoth", "pdf": "pypdfium2", "rst": "docutils", "rtf": "striprtf"}
"""The package that reads a kind of file. Those that are not named here need none."""
_COMMAND = "pip install 'leanpipe[documents]'"
NEEDS_EXTRA = f"needs {_COMMAND}"
"""The reason why a file is passed over that such a package would read."""


def is_readable(kind: str) -> bool:
    """Whether the package that reads this kind of file is installed, or none is needed."""
    package = NEEDED_PACKAGES.get(kind)
    return package is None or _is_installed(package)


def say_what_needs_extra(reference: str, skipped: Sequence[Skipped]) -> str:
    """Say in one sentence which files of a corpus are passed over because a package is missing; nothing if none is."""
    names = [one.source for one in skipped if one.reason == NEEDS_EXTRA]
    if not names:
        return ""
    parts = {part.lower() for name in names for part in Path(name).suffixes[-2:]}
    endings = ", ".join(sorted(part for part in parts if part[1:] in NEEDED_PACKAGES))
    files = "1 file" if len(names) == 1 else f"{len(names)} files"
    return f"{files} of the corpus {reference} ({endings}) cannot be read: run {_COMMAND}"


def _is_installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None
