"""`leanpipe worker`: the worker of this machine, started again when it ends, and a look at its runs every few seconds."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.processes.run_lock import RunIsHeld, hold
from leanpipe.processes.service import Service
from tasks.environment import SUPERVISED, WORKER_LOG
from tasks.tracking.spool import dead_runs

_EVERY_SECONDS = 3.0
_HELD = f"supervisor-{socket.gethostname()}"


class Worker:
    """The worker and its runs: what was killed goes on, and when this ends, everything that it started ends.

    Prefect's settings must stand in the environment before one is made.
    """

    def __init__(self, home: Home, say: Callable[[str], None], log: Path | None, *options: str):
        from flows.deployments import POOL
        from tasks.supervise import RunSupervisor

        os.environ[SUPERVISED] = "1"
        os.environ[WORKER_LOG] = str(log or f"/proc/{os.getpid()}/fd/1")
        os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "3")
        self._say, self._home = say, home
        self._runs = RunSupervisor(home, POOL, say)
        start = ["prefect", "worker", "start", "--pool", POOL, "--type", "process"]
        self._service = Service("worker", [*start, "--name", self._runs.worker, *options], log)
        self._next_look = 0.0
        self._complaint = ""
        self._telling: threading.Thread | None = None

    def start(self) -> None:
        """Start the worker, after a look at what an earlier one left: now nobody can be starting a run."""
        self._look()
        self._service.start()

    def watch(self) -> None:
        """Do what is due: start the worker again, look after its runs. Returns soon; call it every second."""
        if said := self._service.notice_end():
            self._say(said)
        if self._service.is_due():
            self.start()
        elif time.monotonic() >= self._next_look:
            self._look()

    def stop(self) -> None:
        """End the worker, so that it takes no run any more; then its runs, which write a checkpoint and wait for the next one."""
        self._service.kill()  # asked to end, it would kill its runs
        self._tolerantly(self._runs.stop)

    def _look(self) -> None:
        self._tolerantly(lambda: self._runs.settle(self._service.pid))
        self._tell_mlflow()
        self._next_look = time.monotonic() + _EVERY_SECONDS

    def _tell_mlflow(self) -> None:
        """Tell MLflow, too, of runs that are dead: in a thread, for what they left to be told may be much."""
        if self._telling is None or not self._telling.is_alive():
            self._telling = threading.Thread(target=self._end_dead_runs, daemon=True)
            self._telling.start()

    def _end_dead_runs(self) -> None:
        if dead_runs(self._home):
            from tasks.tracking.writer import end_dead_runs  # MLflow takes seconds to import

            end_dead_runs(self._home)

    def _tolerantly(self, look: Callable[[], None]) -> None:
        """A server that is away comes back, and who ends because of it looks after nothing any more."""
        try:
            look()
            self._complaint = ""
        except Exception as error:  # noqa: BLE001
            complaint = f"the runs could not be looked after: {type(error).__name__}: {error}"
            if complaint != self._complaint:
                self._say(complaint)
            self._complaint = complaint


@contextmanager
def only_supervisor(home: Home) -> Iterator[None]:
    """Be the one that looks after the runs of this home. Raises UserError if there is one already."""
    try:
        with hold(home.root, _HELD):
            yield
    except RunIsHeld as error:
        raise UserError(
            f"leanpipe up or leanpipe worker runs already for {home.root}: stop it first, or set LEANPIPE_HOME"
        ) from error


def run_worker(home: Home, say: Callable[[str], None], with_healthcheck: bool) -> None:
    """Run a worker for the Prefect server that PREFECT_API_URL names, until Ctrl-C or SIGTERM."""
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise UserError(
            "there is no Prefect server to work for: start leanpipe up, which has a worker, or set PREFECT_API_URL"
        )
    signal.signal(signal.SIGTERM, interrupt)
    with only_supervisor(home):
        _check_pool(api)
        worker = Worker(home, say, None, *(["--with-healthcheck"] if with_healthcheck else []))
        try:
            worker.start()
            say(
                f"Worker    for {api}, one run at a time; Ctrl-C stops it, and its run goes on at the next start."
            )
            while True:
                worker.watch()
                time.sleep(1)
        except KeyboardInterrupt:
            say("stopping… a run that trains writes a checkpoint first")
        finally:
            worker.stop()
    end_at_once()


def end_at_once() -> None:
    """End this process. Threads of Prefect's and MLflow's would wait for minutes for servers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def interrupt(number: int, frame: object) -> None:
    """Treat a signal as Ctrl-C is treated."""
    raise KeyboardInterrupt


def _check_pool(api: str) -> None:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    from flows.deployments import POOL

    try:
        with get_client(sync_client=True) as client:
            client.read_work_pool(POOL)
    except ObjectNotFound as error:
        raise UserError(f"{api} has no work pool {POOL}: run leanpipe deploy first") from error
    except httpx.TransportError as error:
        raise UserError(
            f"the Prefect server at {api} does not answer: start it, or set PREFECT_API_URL"
        ) from error
