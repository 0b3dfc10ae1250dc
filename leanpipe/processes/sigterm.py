"""SIGTERM where something should be finished first: it is remembered, and followed later."""

import os
import signal
import threading
from types import FrameType
from typing import Any


class Terminated(Exception):
    """Work stopped where it can be gone on from, because the process was told to end."""


class DeferredSigterm:
    """A context in which SIGTERM is remembered instead of ending the process; in a thread it does nothing, for signals go to the
    main one."""

    def __init__(self) -> None:
        self.requested = False
        self.agreed = False
        """Whether all processes of a training know of it."""
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def __enter__(self) -> "DeferredSigterm":
        if self._in_main_thread:
            self._before = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_main_thread:
            signal.signal(signal.SIGTERM, self._before)

    def follow(self, done: str) -> None:
        """End as the signal asked for, now that nothing is lost. Raises Terminated if whoever handles it lets us live."""
        os.kill(os.getpid(), signal.SIGTERM)
        raise Terminated(f"told to end: {done}; run it again to resume")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
