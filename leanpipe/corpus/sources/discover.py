"""Folders and buckets, walked: every file in the order of names, whatever the file system says first."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from leanpipe.core.allowed_paths import Roots, local_path
from leanpipe.core.errors import UserError
from leanpipe.corpus.sources.read_log import ReadLog

# What tells that a remote file has changed; which of them a file system knows differs.
_VERSION = ("size", "ETag", "etag", "md5", "mtime", "LastModified", "last_modified", "generation")


class FoundFile(NamedTuple):
    """A file below a corpus folder, before it is looked at."""

    url: str
    source: str
    size: int | None
    """Bytes; None where a server does not tell."""
    version: Any
    """What tells whether it has changed: `os.stat_result` of a local file, a text for a remote one."""


def discover_files(reference: str, roots: Roots, log: ReadLog) -> Iterator[FoundFile]:
    """Yield every file below a folder or URL, or itself, in the order of names. Raises UserError if it does not exist."""
    path = local_path(reference)
    return _remote(reference, log) if path is None else _local(path, reference, roots, log)


def _local(root: Path, reference: str, roots: Roots, log: ReadLog) -> Iterator[FoundFile]:
    """Files below `root`, or itself. Links to folders are followed, each folder once, so that a loop of links ends."""
    _check_there(root, reference)
    root = root.absolute()
    pending = [(root, "")]
    seen: set[tuple[int, int]] = set()
    while pending:
        path, source = pending.pop()
        try:
            status = path.stat()
            if roots.permitted is not None and source and path.is_symlink() and not roots.permits(str(path)):
                log.skip(source, "link that leads outside the permitted folders")
            elif stat.S_ISDIR(status.st_mode):
                # Last in, first out: the first name of a folder is the next to be looked at.
                pending += reversed(list(_children(path, source, status, seen, log)))
            elif stat.S_ISREG(status.st_mode):
                yield FoundFile(str(path), source or root.name, status.st_size, status)
            else:
                log.skip(source or root.name, "broken link or special file")
        except OSError as error:
            broken = path.is_symlink()
            reason = "broken link or special file" if broken else "not readable"
            log.skip(source or root.name, reason, error.strerror or error)


def _check_there(root: Path, reference: str) -> None:
    try:
        if not root.exists():
            raise UserError(f"the corpus {reference} does not exist: check the path")
    except OSError as error:
        raise UserError(
            f"the corpus {reference} cannot be read ({error.strerror}): check the path"
        ) from error


def _children(
    folder: Path, source: str, status: os.stat_result, seen: set[tuple[int, int]], log: ReadLog
) -> Iterator[tuple[Path, str]]:
    """(path, source) of what lies in a folder that was not seen yet."""
    if (status.st_dev, status.st_ino) in seen:
        log.skip(source, "link to a folder already read")
        return
    paths = sorted(folder.iterdir())
    seen.add((status.st_dev, status.st_ino))
    for path in paths:
        inside = f"{source}/{path.name}" if source else path.name
        if path.name.startswith("."):
            log.skip(inside, "hidden")
        else:
            yield path, inside


def _remote(reference: str, log: ReadLog) -> Iterator[FoundFile]:
    """Files below a URL, or itself, in the order in which a local folder with the same names would have them."""
    files, root, fs = _find(reference)
    if not files:
        raise UserError(f"the corpus {reference} does not exist, or has nothing in it: check the URL")
    # A folder listing may name places that are not below it (an index page links anywhere).
    sources = {name: os.path.relpath(name, root) if name != root else "" for name in files}
    for name, source in sorted(sources.items(), key=lambda item: item[1].split("/")):
        url = fs.unstrip_protocol(name)
        if source.startswith("../"):
            log.skip(url, "link that leads outside the permitted folders")
        elif any(part.startswith(".") for part in source.split("/")):
            log.skip(source, "hidden")
        else:
            info = files[name]
            version = json.dumps([fs.ukey(name), *(str(info.get(key)) for key in _VERSION)])
            yield FoundFile(url, source or name.rsplit("/", 1)[-1], info.get("size"), version)


def _find(reference: str) -> tuple[dict[str, Any], str, Any]:
    """What lies at or below a URL by its name in the file system, the name of the URL there, and the file system."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(reference)
        root = root.rstrip("/")
        info = fs.info(root)
        files = {root: info} if info["type"] == "file" else fs.find(root, detail=True)
    except FileNotFoundError as error:
        raise UserError(f"the corpus {reference} does not exist: check the URL") from error
    except (
        ImportError,
        ValueError,
    ) as error:  # an unknown protocol, or its package is missing: fsspec says which
        raise UserError(f"the corpus {reference} cannot be opened ({error}): check the URL") from error
    except OSError as error:
        raise UserError(
            f"the corpus {reference} cannot be reached ({error}): check the URL and access"
        ) from error
    return files, root, fs
