"""What a stage tells the process that started it: JSON lines, one event each."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any, TextIO

from leanpipe.core import device
from leanpipe.core.report import Report


class EventStream:
    """A `Report` that writes to another process."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def send(self, **event: Any) -> None:
        """Write one event as a line of JSON."""
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.send(metrics=dict(values), step=step)

    def progress(self, done: float, total: float, what: str) -> None:
        self.send(progress=[done, total, what])


class EventLogHandler(logging.Handler):
    """A logging handler that sends each record as an event."""

    def __init__(self, events: EventStream):
        super().__init__()
        self._wire = events

    def emit(self, record: logging.LogRecord) -> None:
        self._wire.send(log=[record.name, record.levelno, record.getMessage()])


def events_to_parent() -> EventStream:
    """Standard output, for events alone: libraries print to it at will, and are sent to standard error."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return EventStream(events)


def send_logs(events: EventStream, level: int) -> None:
    """Send what leanpipe logs in this process as events, and nowhere else."""
    logger = logging.getLogger("leanpipe")
    logger.setLevel(level)
    logger.handlers, logger.propagate = [EventLogHandler(events)], False


def quiet() -> None:
    """Leave out what libraries say in every process and nobody can do anything about."""
    # peft asks transformers in an old way, and every finetuning would say so.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if not device.has_nvidia_driver():
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels that it does not need


def forward_event(event: dict[str, Any], report: Report) -> bool:
    """Tell `report`, or the log, what came over a events; False if it is for neither."""
    match event:
        case {"metrics": values, "step": step}:
            report.metrics(values, step)
        case {"progress": [done, total, what]}:
            report.progress(done, total, what)
        case {"log": [name, level, message]}:
            logging.getLogger(name).log(level, message)
        case _:
            return False
    return True
