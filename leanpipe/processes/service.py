"""A process that is to run for as long as another does: started again when it ends, later each time it ends soon."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from leanpipe.core.errors import UserError
from leanpipe.processes.parent_death import command_that_dies_with_us

_SETTLED_SECONDS = 30.0
"""Who lived so long has started well: its end is no fault of its start."""
_LONGEST_DELAY_SECONDS = 60.0
_STOP_SECONDS = 15.0


class Service:
    """A Python module that runs as a process, which ends with this one; what it prints goes to `log`, or where ours goes."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path | None = None, most_failures: int | None = None
    ):
        self.name = name
        self._log = log
        self._command = command
        self._most_failures = most_failures
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started = self._due = 0.0

    @property
    def pid(self) -> int | None:
        """The process's number while it lives."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process. Call it again only when that has ended."""
        self._started = time.monotonic()
        with self._open_log() as log:
            self._process = subprocess.Popen(
                command_that_dies_with_us([sys.executable, "-m", *self._command], signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )

    def check(self) -> None:
        """Raise UserError if the process has ended, for who waits for its start."""
        if self._process and (status := self._process.poll()) is not None:
            raise UserError(f"{self.name} ended with status {status}{self._see()}; everything was stopped")

    def notice_end(self) -> str | None:
        """If the process has ended since the last call, say so and when it is due again. Raises UserError if it ends too often."""
        if self._process is None or (status := self._process.poll()) is None:
            return None
        _signal_group(self._process, signal.SIGKILL)  # what it started would keep its port
        lived = time.monotonic() - self._started
        self._failures = 1 if lived > _SETTLED_SECONDS else self._failures + 1
        if self._most_failures and self._failures > self._most_failures:
            self.check()
        delay = min(2.0 ** (self._failures - 1), _LONGEST_DELAY_SECONDS)
        self._due, self._process = time.monotonic() + delay, None
        return f"{self.name} ended with status {status} and starts again in {delay:.0f} s{self._see()}"

    def is_due(self) -> bool:
        """Whether the process ended, and it is time to start it again."""
        return self._process is None and time.monotonic() >= self._due

    def stop(self) -> None:
        """End the process and what belongs to it: asked first, killed after a while."""
        if self._process is None:
            return
        _signal_group(self._process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process and what is in its session, at once."""
        if self._process:
            _signal_group(self._process, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _open_log(self) -> contextlib.AbstractContextManager[IO[bytes] | None]:
        if self._log is None:
            return contextlib.nullcontext()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        return self._log.open("ab")

    def _see(self) -> str:
        return f": see {self._log}" if self._log else ""


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
