"""How numbers and progress leave a stage.

A stage calls `report.metrics` and `report.progress`; who listens (a terminal, Prefect, MLflow) is not its business.
Pictures and tables a person would look at are files: a stage writes them under `out / "report"`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from leanpipe.core.files import write_text


class Report(Protocol):
    """Listens to one running stage."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Figures measured at `step` of the stage; without a step they are figures of the whole stage."""

    def progress(self, done: float, total: float, what: str) -> None:
        """`done` of `total` units of `what` ("tokens", "documents") are finished."""


class Silent:
    """Listens to nothing."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def progress(self, done: float, total: float, what: str) -> None: ...


class MultiReport:
    """Passes everything on to several listeners, in order."""

    def __init__(self, listeners: Sequence[Report]):
        self._listeners = listeners

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        for listener in self._listeners:
            listener.metrics(values, step)

    def progress(self, done: float, total: float, what: str) -> None:
        for listener in self._listeners:
            listener.progress(done, total, what)


class MetricsFile:
    """Keeps a stage's metrics beside its result, one JSON line each, so that a run served from the store has them too.

    The steps of each figure go forward. A stage that was killed, or that goes back by itself, tells some of them again:
    what was told of that figure from there on is dropped, so that the file holds each step once. So it does each figure
    that has no steps.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._last: dict[str, int] = {}
        self._without_steps: set[str] = set()
        self._write(_entries(path))  # without a line that a power cut tore

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if any(self._told_already(name, step) for name in values):
            self._forget(set(values), step)
        self._remember(values, step)
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "values": dict(values)}) + "\n")

    def progress(self, done: float, total: float, what: str) -> None: ...

    def _told_already(self, name: str, step: int | None) -> bool:
        return name in self._without_steps if step is None else self._last.get(name, -1) >= step

    def _forget(self, names: set[str], step: int | None) -> None:
        """Drop the figures `names` of this step and later ones, or those that have none."""
        kept = []
        for entry in _entries(self._path):
            values = entry["values"]
            told = entry["step"]
            if told is None if step is None else told is not None and told >= step:
                values = {name: value for name, value in values.items() if name not in names}
            if values:
                kept.append({"step": entry["step"], "values": values})
        self._write(kept)

    def _write(self, entries: list[dict[str, Any]]) -> None:
        self._last, self._without_steps = {}, set()
        for entry in entries:
            self._remember(entry["values"], entry["step"])
        if entries or self._path.exists():
            write_text(self._path, "".join(json.dumps(entry) + "\n" for entry in entries))

    def _remember(self, values: Mapping[str, float], step: int | None) -> None:
        if step is None:
            self._without_steps |= values.keys()
        else:
            self._last |= dict.fromkeys(values, step)


class CatchUp:
    """Passes on what a resumed stage tells, and before each step what an earlier attempt wrote into its metrics file of those
    before: its process may have been killed before anybody else had heard of them.

    Make it before the file is written to. Who listens leaves out what it knows.
    """

    def __init__(self, path: Path, report: Report):
        self._report = report
        self._earlier = [entry for entry in _entries(path) if entry["step"] is not None]
        self._told: set[tuple[str, int]] = set()

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if self._earlier and step is not None:
            self._tell(step)
            self._told |= {(name, step) for name in values}
        self._report.metrics(values, step)

    def progress(self, done: float, total: float, what: str) -> None:
        self._report.progress(done, total, what)

    def finish(self) -> None:
        """Tell the rest: the stage tells nothing any more."""
        self._tell(None)

    def _tell(self, before: int | None) -> None:
        later = []
        for entry in self._earlier:
            step = entry["step"]
            if before is not None and step >= before:
                later.append(entry)
            elif values := {k: v for k, v in entry["values"].items() if (k, step) not in self._told}:
                self._report.metrics(values, step)
        self._earlier = later


def replay(path: Path, report: Report) -> None:
    """Tell `report` every metric that a `MetricsFile` at `path` holds; a missing file holds none."""
    for entry in _entries(path):
        report.metrics(entry["values"], entry["step"])


def _entries(path: Path) -> list[dict[str, Any]]:
    """The lines of the file that are whole."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries
