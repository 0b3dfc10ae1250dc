"""A stage's progress where the person is: a bar in the Prefect UI, lines or a bar in a terminal."""

import os
import re
import sys
import time
from collections.abc import Mapping
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from tasks.tracking.background import calls

TERMINAL = "LEANPIPE_TERMINAL"
"""Set by `leanpipe run`: somebody looks at this process's standard error."""


class PrefectProgress:
    """A progress artifact of the task run that is running; updated at most every `every_seconds`, and nobody waits for it."""

    def __init__(self, label: str, every_seconds: float = 3.0):
        self._key = re.sub("[^a-z0-9-]+", "-", label.lower())
        self._every_seconds = every_seconds
        self._artifact: UUID | None = None
        self._last = 0.0

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def progress(self, done: float, total: float, what: str) -> None:
        now = time.monotonic()
        if now - self._last < self._every_seconds and done < total:
            return
        self._last = now
        percent = min(100.0, 100.0 * done / total) if total else 100.0
        calls.add(lambda: self._show(percent, what), key=id(self))

    def _show(self, percent: float, what: str) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(
                percent, key=self._key, description=f"{self._key}: {what}"
            )
        else:
            update_progress_artifact(self._artifact, percent)


class TerminalProgress:
    """One bar per stage on a terminal; where there is none, a line at the stage's start and end is enough."""

    def __init__(self, label: str):
        console = Console(stderr=True, markup=False)
        self._bar: Progress | None = None
        self._label = label
        if os.environ.get(TERMINAL) and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description:<20}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(label, total=None)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if self._bar and "loss" in values:
            self._bar.update(self._task, description=f"{self._label}  loss {values['loss']:.3f}")

    def progress(self, done: float, total: float, what: str) -> None:
        if self._bar:
            self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


def say(text: str, faint: str = "") -> None:
    """One line for the person at the terminal, if there is one; it ends in what is `faint`. Brackets are no markup."""
    if os.environ.get(TERMINAL):
        Console(stderr=True, highlight=False, markup=False).print(
            Text.assemble(text, (faint, "dim")), soft_wrap=True
        )
