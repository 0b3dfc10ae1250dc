"""Which run a process works at: a file for each run, locked by its process for as long as that lives.

The kernel lets go of the lock when the process ends, however it ends, so nothing has to be guessed from the number of a
process, which another one may have been given since. A file that nobody holds is that of a run whose process was killed.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ValidationError

_SUFFIX = ".lock"
_PATIENCE_SECONDS = 1.0
"""How long `hold` tries: who only asks whether a lock is held has it for a moment."""
_held_here: set[IO[str]] = set()


class RunIsHeld(RuntimeError):
    """Raised where another process works at the run, and lives."""


class Owner(BaseModel):
    """The process that holds a run's lock, or held it when it was killed."""

    pid: int
    host: str
    boot: str
    """Of the kernel since its start; the same in all containers of a machine."""

    @classmethod
    def this_process(cls) -> "Owner":
        return cls(pid=os.getpid(), host=socket.gethostname(), boot=_boot())

    def is_of_this_machine(self) -> bool:
        """Whether it ran here: only then does a lock that nobody holds show that it is dead."""
        return self.host == socket.gethostname() or bool(self.boot and self.boot == _boot())


@contextmanager
def hold(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of the run `name` in `folder`. Raises RunIsHeld if another process does.

    What this process forks without starting another program does not hold it.
    """
    file = _acquire(_path(folder, name))
    _held_here.add(file)
    try:
        file.truncate(0)
        file.write(Owner.this_process().model_dump_json())
        file.flush()
        os.fsync(file.fileno())
        yield
    finally:
        if file in _held_here:  # not in a fork of this process
            _path(folder, name).unlink(missing_ok=True)
            _held_here.discard(file)
            file.close()


def is_held(folder: Path, name: str) -> bool:
    """Whether a process that lives holds the lock of the run `name`."""
    try:
        with _path(folder, name).open() as file:
            return not _try(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def names(folder: Path) -> list[str]:
    """The runs that have a file: each is held, or its process was killed."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}"))


def owner(folder: Path, name: str) -> Owner | None:
    """Who holds the lock of the run `name`, or held it when it was killed; None if no file says so."""
    try:
        return Owner.model_validate_json(_path(folder, name).read_text())
    except (FileNotFoundError, ValidationError):  # a power cut may leave an empty file
        return None


def forget(folder: Path, name: str) -> None:
    """Remove the file of a run whose process was killed, once everything about that is settled. One that is held stays."""
    try:
        with _path(folder, name).open() as file:
            if _try(file, fcntl.LOCK_EX):
                _path(folder, name).unlink(missing_ok=True)
    except FileNotFoundError:
        pass


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}{_SUFFIX}"


def _acquire(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        file = path.open("a+")
        # Who held it before may have removed the file that we opened: a lock on that is worth nothing.
        if _try(file, fcntl.LOCK_EX) and _is_at(file, path):
            return file
        file.close()
        if time.monotonic() > until:
            raise RunIsHeld(f"another process works at run {path.name.removesuffix(_SUFFIX)}: {path}")
        time.sleep(0.05)


def _try(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _let_go() -> None:
    """In a forked child: the lock belongs to the parent, and must not outlive it here."""
    for file in _held_here:
        file.close()
    _held_here.clear()


os.register_at_fork(after_in_child=_let_go)
