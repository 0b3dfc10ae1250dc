"""A run that is asked to stop where it can go on later: it writes a checkpoint, says what it knows, and ends.

SIGTERM would not do: there it means that a person cancelled the run, or, before anything could be said, that it crashed.
Before and after its work a process has no handler, and ends at once: then there is nothing to save.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPT = signal.SIGUSR1


class Interrupted(BaseException):
    """The run was asked to stop and goes on later. No Exception, so that nobody takes it for a failure and carries on."""

    def __init__(self) -> None:
        super().__init__("interrupted: it goes on later from where it was")


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted in the main thread at the signal, once. Entered in another thread, this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(INTERRUPT, _raise)
    try:
        yield
    finally:
        signal.signal(INTERRUPT, before)


@contextmanager
def interrupted_after(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` at the signal, which lets what works within end, and raise Interrupted after that: all it says is heard."""
    _told.append(tell)
    try:
        yield
    finally:
        _told.remove(tell)
        if tell in _ended:
            _ended.remove(tell)
            raise Interrupted


_told: list[Callable[[], None]] = []
_ended: list[Callable[[], None]] = []


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    if not _told:
        raise Interrupted
    _ended.append(_told[-1])
    _told[-1]()
