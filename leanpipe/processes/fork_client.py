"""Run a stage in a process of its own: its memory is returned when it ends, and its death is an error, not ours.

Importing torch and transformers takes 12 s of two cores, so one helper process per run imports them once and forks for
each stage (`leanpipe/processes/fork_server.py`). Both die with this process, however it dies.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.report import Report
from leanpipe.core.stage import Inputs, Stage, stored
from leanpipe.core.store import Artifact, Store
from leanpipe.processes.fork_server import GRACE_SECONDS
from leanpipe.processes.interrupt import interrupted_after
from leanpipe.processes.ipc import forward_event
from leanpipe.processes.threads import thread_environment

# Logits and their gradients are tens of megabytes. Left alone, glibc returns each such block to the kernel and gets it back
# zeroed, page by page: a fifth of a training step on CPU. Here it keeps them until the stage's process ends.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


class StageDied(RuntimeError):
    """The stage's process ended without a result. Running it again resumes what it left."""


class ForkServer:
    """A helper process that has imported the heavy libraries, and forks a child for each stage, one at a time.

    multiprocessing's `forkserver` is not used, for its children import the parent's main module again, which is Prefect;
    nor `torchrun`, whose processes are fresh interpreters, 12 s of imports each. Start it early
    and its imports cost no waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin importing; returns at once."""
        if self._process and self._process.poll() is None:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "leanpipe.processes.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**_KEEP_MEMORY, **thread_environment(), **os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def stop(self) -> None:
        """End the helper; a stage that is running in it is told to end, and killed if it does not."""
        if self._process:
            self._process.stdin.close()  # type: ignore[union-attr]
            self._process.wait(timeout=GRACE_SECONDS + 10)
            self._process = None

    def run(
        self,
        stage: Stage,
        config: StageConfig,
        inputs: Inputs,
        store: Store,
        report: Report,
        meanwhile: Callable[[], object] | None = None,
    ) -> Artifact:
        """Run a stage in a child of the helper. Raises what the stage raised, or StageDied.

        The helper is started only to compute: what the store has is taken from it here. While it computes, `meanwhile` is
        called here, and what the stage reports is heard after that; whether it fails is nobody's business.
        """
        if found := stored(stage, config, inputs, store, report):
            return found
        job = {
            "stage": stage.address,
            "config": config.model_dump(mode="json"),
            "inputs": {name: _to_json(value) for name, value in inputs.items()},
            "store": str(store.root),
            "log_level": logging.getLogger("leanpipe").getEffectiveLevel(),
        }
        with self._lock:
            self.start()
            assert self._process and self._process.stdin and self._process.stdout
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            with interrupted_after(self._process.stdin.close):  # which tells the stage to end
                if meanwhile:
                    with contextlib.suppress(Exception):
                        meanwhile()
                return _listen(stage, self._process.stdout, report)


def _listen(stage: Stage, events: Any, report: Report) -> Artifact:
    """Pass on what the stage reports until it has ended."""
    outcome: Artifact | Exception | None = None
    for line in events:
        event = json.loads(line)
        if forward_event(event, report):
            continue
        match event:
            case {"artifact": artifact}:
                outcome = Artifact.model_validate(artifact)
            case {"user_error": sentence}:
                outcome = UserError(sentence)
            case {"error": trace}:
                outcome = RuntimeError(f"the stage {stage.name} failed in its process:\n{trace}")
            case {"exit": status}:
                return _result(stage, outcome, status)
    raise StageDied(f"the helper process of stage {stage.name} ended; run again to resume")


def _result(stage: Stage, outcome: Artifact | Exception | None, status: int) -> Artifact:
    if isinstance(outcome, Artifact):
        return outcome
    if outcome is not None:
        raise outcome
    if os.WIFSIGNALED(status):
        reason = f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
        hint = " (often the kernel, for want of memory)" if os.WTERMSIG(status) == signal.SIGKILL else ""
    else:
        reason, hint = f"exited with {os.waitstatus_to_exitcode(status)}", ""
    raise StageDied(f"the process of stage {stage.name} {reason}{hint}; run again to resume")


def _to_json(value: Any) -> Any:
    if isinstance(value, Artifact):
        return value.model_dump(mode="json")
    return [one.model_dump(mode="json") for one in value]
