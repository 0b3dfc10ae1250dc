"""SIGTERM while training: the step is finished, a checkpoint is written, and only then does the process end."""

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)


class Terminated(Exception):
    """Training stopped at a checkpoint because the process was told to end; running it again goes on from there."""


class Termination:
    """Within it, SIGTERM is remembered instead of ending the process. Does nothing in a thread: signals go to the main one."""

    def __init__(self) -> None:
        self.requested = False
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def __enter__(self) -> "Termination":
        if self._in_main_thread:
            self._before = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_main_thread:
            signal.signal(signal.SIGTERM, self._before)

    def follow(self, step: int) -> None:
        """End as the signal asked for, now that nothing is lost. Raises Terminated if whoever handles it lets us live."""
        log.info("told to end: stopped after step %d with a checkpoint, run again to resume", step)
        os.kill(os.getpid(), signal.SIGTERM)
        raise Terminated(f"training was told to end and stopped after step {step}; run it again to resume")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
