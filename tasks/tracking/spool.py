"""What MLflow is still to be told of a run: lines in a file, so that neither its absence nor our death loses any.

LEANPIPE_HOME/mlflow-spool/
    <run>.lock              held by the process whose run it is, or by the one that sends what a dead one left
    <run>/entries-<n>.jsonl what is to be told, in order
    <run>/files/            copies of the files that are to be sent
    <run>/state.json        how much of it MLflow knows, and under which ids
    <run>.refused.jsonl     what MLflow would not have

It goes when all of it was sent. This module does not need MLflow.
"""

import json
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from leanpipe.core.files import link_or_copy, sync, write_text
from leanpipe.core.home import Home
from leanpipe.processes.run_lock import Owner, is_held

_STATE = "state.json"
_LARGE = 1_000_000
"""Bytes of a file of entries that were all sent, from which on a new file is begun."""

Entry = dict[str, Any]


class SpoolState(BaseModel):
    """How much of a spool MLflow knows."""

    owner: Owner
    """The process that writes it, or wrote it last."""
    server: str
    """The tracking server that it is for."""
    segment: int = 0
    """The number of the file of entries that is read now."""
    sent: int = 0
    """Bytes of that file."""
    ids: dict[str, str] = {}
    """MLflow's ids of runs, by our names for them."""
    open: list[str] = []
    """The runs that MLflow was told to have begun, and not to have ended."""
    told: dict[str, dict[str, int | None]] = {}
    """By run, the last step of each figure that an earlier attempt told; None until that is looked up."""


class Spool:
    """The spool of one run. Whoever makes one holds the lock of its name."""

    def __init__(self, home: Home, name: str):
        self.home, self.name = home, name
        self.folder = home.spool / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self.state = read_state(home, name) or SpoolState(owner=Owner.this_process(), server=server(home))
        self.state.owner = Owner.this_process()
        self._entries = self._open()
        self._save()

    def append(self, **entry: Any) -> None:
        """Add an entry: it is there once this returns, whatever happens to this process."""
        with self._lock:
            os.write(self._entries, json.dumps(entry).encode() + b"\n")

    def add_files(self, source: Path | str, name: str) -> str:
        """Keep a file or folder, or a text, under `name` until it is sent; gives the folder of the spool that it is in."""
        place = f"files/{uuid.uuid4().hex}"
        target = self.folder / place / name
        target.parent.mkdir(parents=True)
        if isinstance(source, str):
            target.write_text(source)
        elif source.is_dir():
            shutil.copytree(source, target, copy_function=_link)
        else:
            link_or_copy(source, target)
        return place

    def unsent(self, most: int = 1000) -> list[tuple[Entry, int]]:
        """The next entries, each with what `mark_sent` is told once it was sent."""
        found: list[tuple[Entry, int]] = []
        with self._path().open("rb") as file:
            end = file.seek(self.state.sent)
            for line in file:
                if not line.endswith(b"\n") or len(found) == most:
                    break
                end += len(line)
                found.append((json.loads(line), end))
        return found

    def mark_sent(self, end: int) -> None:
        """Note that MLflow knows all entries up to `end`, and what of the state was changed by that."""
        with self._lock:
            self.state.sent = end
            written = os.fstat(self._entries).st_size
            if end < written or written < _LARGE:
                self._save()
                return
            done = self._path()
            self.state.segment, self.state.sent = self.state.segment + 1, 0
            os.close(self._entries)
            self._entries = self._open()
            self._save()
            done.unlink()

    def save(self) -> None:
        """Write the state down."""
        with self._lock:
            self._save()

    def is_sent(self) -> bool:
        """Whether MLflow knows everything."""
        with self._lock:
            return self.state.sent == os.fstat(self._entries).st_size

    def begun(self) -> list[str]:
        """The runs that were begun and not ended, whether MLflow knows it yet or not."""
        begun = dict.fromkeys(self.state.open)
        for entry, _ in self.unsent(most=2**62):
            if entry["do"] == "open":
                begun[entry["run"]] = None
            if entry["do"] == "end":
                begun.pop(entry["run"], None)
        return list(begun)

    def refuse(self, entry: Entry, reason: str) -> Path:
        """Keep an entry that MLflow would not have; gives the file."""
        path = self.home.spool / f"{self.name}.refused.jsonl"
        with path.open("a") as file:
            file.write(json.dumps({"reason": reason, "entry": entry}) + "\n")
        return path

    def last_written(self) -> float:
        """When something was last told, in seconds since 1970."""
        return self._path().stat().st_mtime

    def sync(self) -> None:
        """Wait until all entries are on the disk."""
        os.fsync(self._entries)

    def close(self) -> None:
        """Close the files; a spool that was sent goes."""
        sent = self.is_sent()
        os.close(self._entries)
        if sent:
            shutil.rmtree(self.folder)

    def _path(self) -> Path:
        return self.folder / f"entries-{self.state.segment}.jsonl"

    def _open(self) -> int:
        path = self._path()
        if path.exists():
            whole = path.read_bytes().rpartition(b"\n")  # without a line that a power cut tore
            os.truncate(path, len(whole[0]) + len(whole[1]))
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _save(self) -> None:
        write_text(self.folder / _STATE, self.state.model_dump_json())


def names(home: Home) -> list[str]:
    """The runs of which something may be left to tell, whether they live or not."""
    return sorted(path.parent.name for path in home.spool.glob(f"*/{_STATE}"))


def is_dead(home: Home, name: str) -> bool:
    """Whether the run `name` has a spool that the death of a process on this machine left, for the server that is ours."""
    state = read_state(home, name)
    if state is None or not state.owner.is_of_this_machine() or state.server != server(home):
        return False
    return not is_held(home.spool, name)


def read_state(home: Home, name: str) -> SpoolState | None:
    """The state of a spool; None if there is none, or none that can be read."""
    try:
        return SpoolState.model_validate_json((home.spool / name / _STATE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def server(home: Home) -> str:
    """Name the tracking server in use: `own` for the database in LEANPIPE_HOME, whoever serves it at which port."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    return "own" if str(home.mlflow_database) in address or address == _served(home) else address


def home_id(home: Home) -> str:
    """Give the home a name that no other has: runs of other machines may be in the same MLflow."""
    path = home.spool / "home-id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        candidate = path.with_name(f"{uuid.uuid4().hex[:16]}.new")
        candidate.write_text(candidate.stem)
        sync(candidate)
        try:
            os.link(candidate, path)  # of two processes that do so together one is first
            candidate.unlink()
        except FileExistsError:
            candidate.unlink()
        except OSError:  # no links here
            candidate.replace(path)
    return path.read_text()


def _link(source: str, target: str) -> str:
    """Copy a file for `copytree`: as a link where there are links, for a stage's report may be large, and does not change."""
    link_or_copy(Path(source), Path(target))
    return target


def _served(home: Home) -> str:
    """The address at which `leanpipe up` serves our database."""
    try:
        environment: Mapping[str, str] = json.loads(home.servers_file.read_text())["environment"]
    except (FileNotFoundError, ValueError, KeyError):
        return ""
    return environment.get("MLFLOW_TRACKING_URI", "")
