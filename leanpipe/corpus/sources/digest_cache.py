"""Digests of files, remembered, so that a nightly run does not read a large old file only to know that it is the old one."""

import os
import sqlite3
import time
from pathlib import Path

from leanpipe.core.store import digest_file

_SETTLED = 2.0  # seconds: a file changed later may change again within the same tick of its clock (git's "racy" index)
_BATCH = 256  # rows written at once: what a killed run has to read again
_TABLE = (
    "CREATE TABLE IF NOT EXISTS digests (path BLOB PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL)"
)


class DigestCache:
    """Remembers the SHA-256 of local files, read again only if size, times of change or inode differ.

    They lie in one SQLite file, or in none.

    Several processes may share it. A damaged one is begun anew: nothing is lost but time.
    """

    def __init__(self, path: Path | None = None):
        self._database = _open(path) if path else None
        self._new: list[tuple[bytes, str, str]] = []

    def __enter__(self) -> "DigestCache":
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        if self._database:
            self._database.close()

    def digest(self, path: str, status: os.stat_result) -> str:
        """Return the SHA-256 of the file at `path`, whose `status` was just taken. Raises OSError if it cannot be read."""
        key, stamp = os.fsencode(path), _stamp(status)
        if known := self._known(key, stamp):
            return known
        digest = digest_file(Path(path))
        if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
            self._new.append((key, stamp, digest))
        if len(self._new) >= _BATCH:
            self._flush()
        return digest

    def _known(self, key: bytes, stamp: str) -> str | None:
        if not self._database:
            return None
        query = "SELECT digest FROM digests WHERE path = ? AND stamp = ?"
        row = self._database.execute(query, (key, stamp)).fetchone()
        return row[0] if row else None

    def _flush(self) -> None:
        if self._database and self._new:
            with self._database as transaction:
                transaction.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", self._new)
        self._new = []


def _stamp(status: os.stat_result) -> str:
    # The time of the inode's change too: a tool that copies may set the other one back.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(path)
    except sqlite3.OperationalError:  # locked for too long, or no place to write: that is no damage
        raise
    except sqlite3.DatabaseError:
        path.unlink()
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    try:
        database.execute(_TABLE)
        database.execute("SELECT path, stamp, digest FROM digests LIMIT 1").fetchall()
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database
