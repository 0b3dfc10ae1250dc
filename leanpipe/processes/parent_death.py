"""A process that ends when the one that started it does, however that ends."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence

_PR_SET_PDEATHSIG = 1
# Loaded now: between fork and exec there is little that a process with threads may do.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals = signal.SIGKILL, parent: int | None = None) -> None:
    """Ask the kernel to send this signal to this process when the thread that started it ends. Elsewhere than on Linux, do nothing.

    `parent` is the number of the process that started this one, if it is known: it may have ended before the kernel was asked.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def command_that_dies_with_us(command: Sequence[str], number: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return a command line that does `command`, and gets this signal when the thread that starts it ends.

    It asks the kernel itself, and then becomes the command. A `preexec_fn` would run our code between fork and exec, which
    waits for ever where another thread held a lock: a worker was once not started for that.
    """
    return [sys.executable, "-I", "-S", "-c", _ASK_AND_BECOME, str(os.getpid()), str(int(number)), *command]


_ASK_AND_BECOME = """
import ctypes, os, sys
parent, number, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(number))
if os.getppid() != int(parent):
    sys.exit(1)
os.execv(command[0], command)
"""

_forks_are_bound = False


@contextlib.contextmanager
def forks_die_with_us() -> Iterator[None]:
    """Bind what this process forks meanwhile without starting another program, such as the helper of a library: it dies with this one."""
    global _forks_are_bound
    before, _forks_are_bound = _forks_are_bound, True
    try:
        yield
    finally:
        _forks_are_bound = before


def _bind_fork() -> None:
    global _forks_are_bound
    if _forks_are_bound:
        _forks_are_bound = False  # what this one forks is its own business
        die_with_parent()


os.register_at_fork(after_in_child=_bind_fork)
