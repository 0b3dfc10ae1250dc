"""How many cores other processes leave free, watched while an engine lives.

llama.cpp's threads wait for each other at every step, so one that another process keeps from its core slows all of them.
"""

import os
import threading
import time

import psutil

_SECONDS = 0.5
"""Between two looks: what is computed in that time is what counts as other work."""


class OtherWork:
    """Watches what other processes compute on the cores that this process may use, from a thread of its own."""

    def __init__(self, cores: int):
        """`cores` is how many of them this process uses at the most."""
        self._cores, self._free = cores, cores
        self._process, self._ours = psutil.Process(), sorted(os.sched_getaffinity(0))
        self._last = self._read()
        threading.Thread(target=self._watch, name="other-work", daemon=True).start()

    @property
    def free_cores(self) -> int:
        """The cores that nobody else kept busy when it was last looked; at least one."""
        return self._free

    def _watch(self) -> None:
        while True:
            time.sleep(_SECONDS)
            self._look()

    def _look(self) -> None:
        now = self._read()
        seconds, busy, own = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        self._free = min(self._cores, free_beside(len(self._ours), seconds, busy, own))

    def _read(self) -> tuple[float, float, float]:
        """Now, and the seconds that all processes have computed on our cores, and this one."""
        all_of = psutil.cpu_times(percpu=True)
        # A guest's time is within the user's.
        busy = sum(
            sum(one)
            - one.idle
            - getattr(one, "iowait", 0)
            - getattr(one, "guest", 0)
            - getattr(one, "guest_nice", 0)
            for core, one in enumerate(all_of)
            if core in self._ours
        )
        own = self._process.cpu_times()
        return time.monotonic(), busy, own.user + own.system


def free_beside(cores: int, seconds: float, busy: float, own: float) -> int:
    """Count those of so many cores that others left free, where all computed `busy` seconds in that time and we `own`; at least one."""
    others = max(0.0, busy - own) / max(seconds, 1e-3)
    return max(1, round(cores - others))
