"""Files and folders that are there whole or not at all, whatever happens while they are written."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

_PARTIAL_FILES = ".*.part"


def expanded(path: str) -> Path:
    """Return the path with `~` as somebody's home; one whose owner is not known stays as it was written."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that somebody else wrote; empty if the file holds none, or is not there."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, and rename what was written into place: it survives a power cut.

    If what is within fails, nothing is at `path` but what was there before. Of two that write the same file at once neither
    disturbs the other: the last one's stays.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text)


def remove_partials(folder: Path) -> None:
    """Remove the files that a killed process left half-written; nobody else may be writing there."""
    for path in folder.rglob(_PARTIAL_FILES):
        if path.is_file():
            path.unlink()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, waiting for whoever holds it; the kernel lets go of it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def publish_folder(partial: Path, final: Path) -> None:
    """Give a finished folder its place, in one rename that survives a power cut."""
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(final)
    sync(final.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Have the same file at `target` too: as a link, or as a copy where the file system knows none. It must not be there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with written_whole(target) as partial:
            shutil.copyfile(source, partial)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
