"""`python -m leanpipe.processes.fork_server`: imports the heavy libraries once, then forks a child for each stage it is told to run.

Jobs come as JSON lines on standard input; what happens goes back as JSON lines on standard output. When standard input
closes, because the parent ended or was killed, the child is told to end (a training writes a checkpoint first), and this
process ends; should it be killed itself, the kernel kills the child with it.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.stage import find_stage
from leanpipe.core.store import Artifact, Store
from leanpipe.processes.ipc import EventStream, events_to_parent, quiet, send_logs
from leanpipe.processes.launcher import RankDied
from leanpipe.processes.parent_death import die_with_parent
from leanpipe.processes.run_stage import run_stage

GRACE_SECONDS = 30
"""How long a child that was told to end may take, for a training to finish its step and write a checkpoint."""
_HEAVY = (
    "torch",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "peft",
    "accelerate",
    "matplotlib.figure",  # every stage draws
    "matplotlib.backends.backend_agg",
)


def main() -> None:
    """Fork a child for each job that comes on standard input, until that closes."""
    events = events_to_parent()
    quiet()
    # Importing these may touch the CUDA driver, and a forked child cannot use a driver that its parent has touched.
    if not device.has_nvidia_driver():
        gc.disable()  # looking for garbage again and again in what is only growing is a fifth of the imports
        for name in _HEAVY:
            importlib.import_module(name)
        # Every training collects garbage: looking through all that was imported would be a good part of a short one.
        gc.collect()
        gc.freeze()
        gc.enable()
    while line := _read_line(sys.stdin.fileno()):
        job = json.loads(line)
        if not device.has_nvidia_driver():
            _import_once(job["stage"])
        here, child = os.getpid(), os.fork()
        if child == 0:
            die_with_parent(parent=here)
            _run_in_child(job, events)
        events.send(exit=_wait(child))


def _import_once(stage: str) -> None:
    """Import the stage's module here, so that the next stages need not import again what they share with it."""
    with contextlib.suppress(Exception):  # the child says what it is
        find_stage(stage)
    gc.freeze()


def _run_in_child(job: dict[str, Any], events: EventStream) -> None:
    send_logs(events, job["log_level"])
    try:
        stage = find_stage(job["stage"])
        config = stage.config_type.model_validate(job["config"])
        inputs = {name: _artifacts(value) for name, value in job["inputs"].items()}
        artifact = run_stage(stage, config, inputs, Store(Path(job["store"])), events)
        events.send(artifact=artifact.model_dump(mode="json"))
    except UserError as error:
        events.send(user_error=str(error))
    except RankDied as error:
        logging.getLogger(__name__).error("%s", error)
        os._exit(1)  # as if this process had been killed itself
    except BaseException:  # noqa: BLE001 - whatever it was, the parent is told, and raises it
        events.send(error=traceback.format_exc())
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
