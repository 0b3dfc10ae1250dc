"""All processes of one run, found by a variable of their environment: it is inherited, whatever becomes of their parents."""

import contextlib
import signal
from collections.abc import Iterator, Sequence

import psutil


def processes_with(variable: str, value: str | None = None) -> list[psutil.Process]:
    """Find the processes that were started with this variable in their environment, and with this value of it, if given."""
    return [one for one, found in _environments(variable) if value is None or found == value]


def values_of(variable: str) -> set[str]:
    """List the values that the variable has in the environments of processes that live."""
    return {found for _, found in _environments(variable)}


def send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that live still."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def wait_for_end(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended, and return those that have not after so many seconds."""
    return psutil.wait_procs(processes, timeout=seconds)[1]


def _environments(variable: str) -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.process_iter():
        # Processes of other people, those that just ended, and those of the kernel have none that could be read.
        with contextlib.suppress(psutil.Error, OSError):
            if (found := process.environ().get(variable)) is not None:
                yield process, found
