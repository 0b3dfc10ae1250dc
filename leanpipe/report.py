"""How numbers and progress leave a stage.

A stage calls `report.metrics` and `report.progress`; who listens (a terminal, Prefect, MLflow) is not its business.
Pictures and tables a person would look at are files: a stage writes them under `out / "report"`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


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


class Together:
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
    """Keeps a stage's metrics beside its result, one JSON line each, so that a run served from the store has them too."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "values": dict(values)}) + "\n")

    def progress(self, done: float, total: float, what: str) -> None: ...


def replay(path: Path, report: Report) -> None:
    """Tell `report` every metric that a `MetricsFile` at `path` holds; a missing file holds none."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        report.metrics(entry["values"], entry["step"])
