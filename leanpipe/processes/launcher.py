"""Several processes that run one stage together, as `torchrun` would start them: one for each GPU, or sharing the cores.

Each runs the stage's function and knows its rank from the environment, as torch.distributed and accelerate read it. The
first one reports and writes the result; the others leave when the training ends.
"""

import contextlib
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.report import Report
from leanpipe.processes.ipc import forward_event
from leanpipe.processes.sigterm import DeferredSigterm
from leanpipe.processes.threads import thread_environment

Event = tuple[int, dict[str, Any] | None]
"""What the process of a rank sent; None when it has ended."""
_LAST_WORDS_SECONDS = 2.0
"""For which another process is listened to after one failed."""


class Done(Exception):
    """The part of a process that is not the first one is done."""


class RankDied(RuntimeError):
    """One of the processes ended without a word, and the others with it. Running the stage again resumes."""


def rank() -> int:
    """Which of the processes this is, from 0."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """How many they are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def leave() -> None:
    """Raise Done in all processes but the first."""
    if rank():
        raise Done


def launch(number: int, job: Mapping[str, Any], report: Report, stage: str) -> tuple[dict[str, Any], int]:
    """Run `job` (see leanpipe/processes/rank_main.py) in `number` processes: the first one's summary and peak of memory.

    Raises what the first to fail raised, and ends the others. SIGTERM is passed on to them, and followed when they ended.
    """
    with DeferredSigterm() as termination:
        port = _free_port()
        workers = [_start(index, number, port, job) for index in range(number)]
        try:
            result = _listen(workers, report, stage, termination)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    if termination.requested:
        termination.follow(f"the {number} processes of {stage} have stopped")
    assert result is not None
    return result


def _listen(
    workers: Sequence[subprocess.Popen[str]], report: Report, stage: str, termination: DeferredSigterm
) -> tuple[dict[str, Any], int] | None:
    events: queue.Queue[Event] = queue.Queue()
    for index, worker in enumerate(workers):
        threading.Thread(target=_forward, args=(index, worker, events), daemon=True).start()
    result, running, told = None, set(range(len(workers))), False
    while running:
        if termination.requested and not told:
            told = True
            for index in running:
                workers[index].terminate()
        try:
            index, event = events.get(timeout=0.2)
        except queue.Empty:
            continue
        if event is None:
            running.discard(index)
            if workers[index].wait() and not termination.requested:
                raise _death(workers, stage)
        elif "summary" in event:
            result = event["summary"], event["peak_memory"]
        elif "user_error" in event:
            raise UserError(event["user_error"])
        elif "error" in event:
            cause = _cause(workers, events, stage)
            raise cause or RuntimeError(f"process {index} of stage {stage} failed:\n{event['error']}")
        else:
            forward_event(event, report)
    return result


def _cause(
    workers: Sequence[subprocess.Popen[str]], events: "queue.Queue[Event]", stage: str
) -> Exception | None:
    """What ended another process, if something did: the others fail for want of it, and may be heard before."""
    until = time.monotonic() + _LAST_WORDS_SECONDS
    while time.monotonic() < until:
        if any(worker.poll() for worker in workers):
            return _death(workers, stage)
        with contextlib.suppress(queue.Empty):
            _, event = events.get(timeout=0.05)
            if event and "user_error" in event:
                return UserError(event["user_error"])
    return None


def _death(workers: Sequence[subprocess.Popen[str]], stage: str) -> RankDied:
    index, status = next((index, worker.poll()) for index, worker in enumerate(workers) if worker.poll())
    return RankDied(f"process {index} of stage {stage} ended with {status}")


def _forward(index: int, worker: subprocess.Popen[str], events: "queue.Queue[Event]") -> None:
    assert worker.stdout
    for line in worker.stdout:
        events.put((index, json.loads(line)))
    events.put((index, None))


def _start(index: int, number: int, port: int, job: Mapping[str, Any]) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "leanpipe.processes.rank_main", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | thread_environment() | _environment(index, number) | {"MASTER_PORT": str(port)},
    )
    assert worker.stdin
    level = logging.getLogger("leanpipe").getEffectiveLevel()
    worker.stdin.write(json.dumps({**job, "log_level": level}))
    worker.stdin.close()
    return worker


def _environment(index: int, number: int) -> dict[str, str]:
    """What torch.distributed and accelerate read. Each process sees one GPU, and calls it the first."""
    common = {"RANK": str(index), "WORLD_SIZE": str(number), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    if device.name() == "cuda":
        seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(device.count())))
        return common | {"CUDA_VISIBLE_DEVICES": seen.split(",")[index]}
    cores = int(os.environ.get("OMP_NUM_THREADS", 0)) or device.cores()
    return common | {"OMP_NUM_THREADS": str(max(1, cores // number)), "ACCELERATE_USE_CPU": "true"}


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
