"""The process of a flow run: it holds the run's lock, ends where it can go on when it is asked to, and outlives its worker."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal

from leanpipe.core.home import Home
from leanpipe.processes.interrupt import Interrupted, interruptible
from leanpipe.processes.run_lock import RunIsHeld, hold
from tasks.environment import SUPERVISED, WORKER_LOG

log = logging.getLogger("leanpipe.run")

FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""In the environment of everything that a worker starts for a flow run: the id of that."""
WORKER = "PREFECT__WORKER_NAME"
"""Likewise: the name of the worker."""


@contextmanager
def attempt(home: Home, run_id: str) -> Iterator[None]:
    """Work at the flow run, as the only process that does, and without a word to Prefect if it is interrupted.

    Prefect then believes that the run goes on, its lock is free, and so whoever supervises it puts it back.
    """
    if os.environ.get(FLOW_RUN) != run_id:  # no worker started this process: a terminal, or a test
        with hold(home.runs, run_id):
            yield
        return
    _write_to_log()
    try:
        with hold(home.runs, run_id):
            try:
                with interruptible():
                    yield
            except Interrupted as interrupted:
                _leave(str(interrupted))
            except TerminationSignal:
                # Of somebody who ends every process, as a machine does that shuts down.
                if not os.environ.get(SUPERVISED) or _is_cancelled(run_id):
                    raise
                _leave("told to end: the run goes on later")
    except RunIsHeld as held:
        _leave(f"{held}; this one leaves it to that")


def _leave(reason: str) -> None:
    """End at once: whatever is raised, Prefect takes for the end of the run. The lock's file stays, and tells of it."""
    log.warning("%s", reason)
    for handler in log.parent.handlers if log.parent else ():
        handler.flush()
    os._exit(0)


def _is_cancelled(run_id: str) -> bool:
    with get_client(sync_client=True, httpx_settings={"timeout": 10}) as client:
        state = client.read_flow_run(UUID(run_id)).state
    return state is None or state.is_cancelling() or state.is_cancelled()


def _write_to_log() -> None:
    path = os.environ.get(WORKER_LOG)
    with suppress(OSError):  # then it prints into the pipe, which is as well while the worker lives
        if path:
            with Path(path).open("ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
