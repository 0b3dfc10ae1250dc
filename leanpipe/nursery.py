"""`python -m leanpipe.nursery`: imports the heavy libraries once, then forks a child for each stage it is told to run.

Jobs come as JSON lines on standard input; what happens goes back as JSON lines on standard output. When standard input
closes, because the parent ended or was killed, the child is told to end (a training writes a checkpoint first), and this
process ends; should it be killed itself, the kernel kills the child with it.
"""

import ctypes
import importlib
import json
import logging
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from leanpipe import device
from leanpipe.errors import UserError
from leanpipe.stage import find_stage, run_stage
from leanpipe.store import Artifact, Store

_PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 30
"""How long a child that was told to end may take, for a training to finish its step and write a checkpoint."""
_HEAVY = ("torch", "transformers.trainer", "transformers.models.llama.modeling_llama", "peft", "accelerate")


class _Wire:
    """A `Report` and a log handler that write to the parent."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def send(self, **event: Any) -> None:
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.send(metrics=dict(values), step=step)

    def progress(self, done: float, total: float, what: str) -> None:
        self.send(progress=[done, total, what])


class _LogHandler(logging.Handler):
    def __init__(self, wire: _Wire):
        super().__init__()
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        self._wire.send(log=[record.name, record.levelno, record.getMessage()])


def main() -> None:
    # Libraries print to standard output at will: keep the wire for events alone.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # peft asks transformers in an old way, and every finetuning would say so.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # Importing these may touch the CUDA driver, and a forked child cannot use a driver that its parent has touched.
    if not device.has_nvidia_driver():
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels that it does not need
        for name in _HEAVY:
            importlib.import_module(name)
    wire = _Wire(events)
    while line := _read_line(sys.stdin.fileno()):
        child = os.fork()
        if child == 0:
            _run_in_child(json.loads(line), wire)
        wire.send(exit=_wait(child))


def _run_in_child(job: dict[str, Any], wire: _Wire) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    logger = logging.getLogger("leanpipe")
    logger.setLevel(job["log_level"])
    logger.handlers, logger.propagate = [_LogHandler(wire)], False
    try:
        stage = find_stage(job["stage"])
        config = stage.config_type.model_validate(job["config"])
        inputs = {name: _artifacts(value) for name, value in job["inputs"].items()}
        artifact = run_stage(stage, config, inputs, Store(Path(job["store"])), wire)
        wire.send(artifact=artifact.model_dump(mode="json"))
    except UserError as error:
        wire.send(user_error=str(error))
    except BaseException:  # noqa: BLE001 - whatever it was, the parent is told, and raises it
        wire.send(error=traceback.format_exc())
    os._exit(0)


def _artifacts(value: Any) -> Artifact | tuple[Artifact, ...]:
    if isinstance(value, dict):
        return Artifact.model_validate(value)
    return tuple(Artifact.model_validate(one) for one in value)


def _read_line(descriptor: int) -> bytes:
    """One line, read byte by byte: a buffered read would be copied into the child by fork."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            return b""
        line += byte
    return line


def _wait(child: int) -> int:
    """The child's wait status. If standard input closes first, the parent is gone: let the child end, and end."""
    child_descriptor = os.pidfd_open(child)
    poll = select.poll()
    poll.register(child_descriptor, select.POLLIN)
    poll.register(sys.stdin.fileno(), select.POLLHUP)
    while True:
        ready = dict(poll.poll())
        if child_descriptor in ready:
            os.close(child_descriptor)
            return os.waitpid(child, 0)[1]
        if ready.get(sys.stdin.fileno(), 0) & select.POLLHUP:
            os.kill(child, signal.SIGTERM)
            poll.unregister(sys.stdin.fileno())
            poll.poll(GRACE_SECONDS * 1000)
            os._exit(1)


if __name__ == "__main__":
    main()
