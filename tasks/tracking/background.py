"""Calls to Prefect that a stage does not wait for: pages and progress, which are shown as soon as its server answers."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Hashable

import httpx

log = logging.getLogger("leanpipe.tracking")

_RETRY_SECONDS = 2.0
_WORTH_RETRYING = {408, 429}


class BackgroundCalls:
    """A thread that makes calls in their order, each again until it succeeds."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Hashable, Callable[[], object]] = {}
        self._thread: threading.Thread | None = None

    def add(self, call: Callable[[], object], key: Hashable = None) -> None:
        """Make the call soon. One with the same key that is still waiting is left out: this one is newer."""
        context = contextvars.copy_context()  # from which Prefect knows the run
        with self._changed:
            self._waiting[key if key is not None else object()] = lambda: context.run(call)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prefect-pages", daemon=True)
                self._thread.start()

    def finish(self, seconds: float) -> bool:
        """Wait until all calls were made, or for so long; gives whether they were."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._waiting and time.monotonic() < until:
                self._changed.wait(0.2)
            return not self._waiting

    def forget(self) -> None:
        """Make no call that still waits."""
        with self._changed:
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                key, call = next(iter(self._waiting.items()))
            done = _succeeds(call)
            with self._changed:
                if done and self._waiting.get(key) is call:
                    del self._waiting[key]
                self._changed.notify_all()
            if not done:
                time.sleep(_RETRY_SECONDS)


calls = BackgroundCalls()
"""Those of this process."""


def _succeeds(call: Callable[[], object]) -> bool:
    """Whether the call was made, or is one that Prefect will never take."""
    try:
        call()
        return True
    except Exception as error:  # noqa: BLE001 - whatever it is: no stage ends for what it shows
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
        refused = 400 <= status < 500 and status not in _WORTH_RETRYING
        if refused:
            log.warning("Prefect refuses a page: %s", error)
        return refused
