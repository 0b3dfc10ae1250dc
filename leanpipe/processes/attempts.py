"""How long a result took, over all attempts at it: written down while it is computed, so that a kill loses seconds of it."""

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leanpipe.core import device
from leanpipe.core.files import write_text
from leanpipe.core.store import CHECKPOINTS, digest_json

_FILE = "attempts.json"
_EVERY_SECONDS = 2.0


@dataclass
class _Record:
    """What is known of the attempts so far."""

    count: int = 0
    seconds: float = 0.0
    peaks: dict[str, int] = field(default_factory=dict)
    """Bytes of memory at the peak, by the digest of an attempt's settings: one that held less at once needed less."""


class Attempts:
    """Counts one more attempt at the result in the folder `partial`, from entering to leaving its context.

    The record lies among the checkpoints, for it goes when they do: a result holds its sums in its manifest.
    """

    def __init__(self, partial: Path, settings: Mapping[str, Any], measures_memory: bool):
        """`measures_memory`: whether it is this process that computes, so that its peak is the attempt's."""
        self._file = partial / CHECKPOINTS / _FILE
        self._settings, self._measures_memory = digest_json(settings), measures_memory
        self._earlier = _read(self._file)
        self._started = 0.0
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._keep_writing, name="attempts", daemon=True)

    def __enter__(self) -> "Attempts":
        self._started = time.perf_counter()
        self._write()
        self._writer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._writer.join()
        self._write()

    @property
    def count(self) -> int:
        """How many attempts there were, this one included."""
        return self._earlier.count + 1

    @property
    def seconds(self) -> float:
        """How long all of them took, until now."""
        return self._earlier.seconds + time.perf_counter() - self._started

    def peak(self, measured: int) -> int:
        """Return the bytes at the peak of all attempts with these settings, of which this one's were `measured`."""
        return max(measured, self._earlier.peaks.get(self._settings, 0))

    def _keep_writing(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            self._write()

    def _write(self) -> None:
        peak = self.peak(device.peak_memory() if self._measures_memory else 0)
        record = {
            "count": self.count,
            "seconds": self.seconds,
            "peaks": self._earlier.peaks | {self._settings: peak},
        }
        with suppress(OSError):  # a full disk is for the stage to complain of
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, json.dumps(record))


def _read(file: Path) -> _Record:
    """Read the record of earlier attempts; an empty one if there is none, or if a power cut tore it."""
    try:
        return _Record(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return _Record()
