"""Keep what Prefect believes of the runs of this LEANPIPE_HOME true: a run whose process is gone goes on, or ends.

Prefect learns of a run's end from its process or from its worker. When both are killed, nobody tells it: the run stays
Running and holds the pool's place. Only runs of this home are touched: those that a worker of ours took, which their labels
say, and those whose lock is in the home. Of other machines' runs nobody here knows whether they live.
"""

import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from uuid import UUID, uuid4

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed, Scheduled

from leanpipe.core.files import exclusive, write_text
from leanpipe.core.home import Home
from leanpipe.processes import run_lock
from leanpipe.processes.fork_server import GRACE_SECONDS
from leanpipe.processes.interrupt import INTERRUPT
from leanpipe.processes.process_tree import processes_with, send, values_of, wait_for_end
from tasks.attempt import FLOW_RUN, WORKER

MOST_DEATHS = 3
"""So often a run whose process was killed goes on by itself."""
INTERRUPTED = "Interrupted"
"""The name of the state, of type Scheduled, in which such a run waits for the worker."""
_DEATHS = "leanpipe.deaths"
_WORKER_LABEL = "prefect.worker.name"
_UNFINISHED = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
_PATIENCE_SECONDS = 10.0
"""For which a run without a process is left to the worker that lives: it may be starting it, or telling its end."""
STOP_SECONDS = GRACE_SECONDS + 15
"""How long a run may take to write its checkpoint and say so."""


def worker_name(home: Home) -> str:
    """The name of the worker of this home on this machine; no other worker has it, whatever pool it serves."""
    path = home.root / "worker-id"
    if not path.exists():
        with exclusive(home.root / ".worker-id.lock"):
            if not path.exists():
                write_text(path, uuid4().hex[:8])
    return f"{socket.gethostname()}-{path.read_text().strip()}"


class RunSupervisor:
    """Compares the unfinished runs of a work pool with the processes that live, and puts right what differs."""

    def __init__(self, home: Home, pool: str, say: Callable[[str], None]):
        self.worker = worker_name(home)
        self._locks = home.runs
        self._pool = pool
        self._say = say
        self._gone_since: dict[UUID, float] = {}
        self._told_to_end: dict[UUID, float] = {}

    def settle(self, worker: int | None) -> None:
        """Put back or end the runs whose process is gone. `worker` is the worker's process, None if it has none now."""
        with get_client(sync_client=True, httpx_settings={"timeout": 15}) as client:
            gone = set()
            for run in self._candidates(client):
                if self._is_alive(run.id):
                    self._end_if_cancelled(run, worker)
                elif self._is_long_gone(run, worker):
                    self._conclude(client, run.id)
                else:
                    gone.add(run.id)
            self._gone_since = {key: since for key, since in self._gone_since.items() if key in gone}

    def stop(self) -> None:
        """End the processes of all runs of the worker, which must have ended, and let the runs wait for the next one."""
        processes = processes_with(WORKER, self.worker)
        working = {found.pid for name in self._held() if (found := run_lock.owner(self._locks, name))}
        send([one for one in processes if one.pid in working], INTERRUPT)
        idle = processes if not working else [one for one in processes if not _descends_from(one, working)]
        send(idle, signal.SIGKILL)  # what has not begun has nothing to save
        try:
            left = wait_for_end(processes, STOP_SECONDS)
        except KeyboardInterrupt:  # somebody asks a second time
            left = processes
        send(left, signal.SIGKILL)
        wait_for_end(left, 5)
        with get_client(sync_client=True, httpx_settings={"timeout": 15}) as client:
            for run in self._candidates(client):
                if not self._is_alive(run.id):
                    self._conclude(client, run.id, asked=True)

    def _held(self) -> list[str]:
        return [name for name in run_lock.names(self._locks) if run_lock.is_held(self._locks, name)]

    def _candidates(self, client: SyncPrefectClient) -> list[FlowRun]:
        """Our runs of the pool that have not ended, and all runs whose process was killed while it held the lock."""
        unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*_UNFINISHED])))
        pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool]))
        found = client.read_flow_runs(flow_run_filter=unfinished, work_pool_filter=pool)
        killed = [name for name in run_lock.names(self._locks) if not run_lock.is_held(self._locks, name)]
        if killed:
            ids = FlowRunFilterId(any_=[UUID(name) for name in killed])
            found += client.read_flow_runs(flow_run_filter=FlowRunFilter(id=ids))
            for name in set(killed) - {str(run.id) for run in found}:
                run_lock.forget(self._locks, name)  # of a run that was deleted, or that another server knows
        return [run for run in {run.id: run for run in found}.values() if self._is_ours(run)]

    def _is_ours(self, run: FlowRun) -> bool:
        if owner := run_lock.owner(self._locks, str(run.id)):
            return owner.is_of_this_machine()
        return (
            run.labels.get(_WORKER_LABEL, self.worker) == self.worker
        )  # not labelled yet: see _is_long_gone

    def _is_alive(self, run_id: UUID) -> bool:
        name = str(run_id)
        if run_lock.is_held(self._locks, name):
            return True
        if run_lock.owner(self._locks, name):  # was killed: what it started has lost its purpose
            send(processes_with(FLOW_RUN, name), signal.SIGKILL)
            return False
        return name in values_of(FLOW_RUN)  # has not come so far as to hold a lock

    def _is_long_gone(self, run: FlowRun, worker: int | None) -> bool:
        since = self._gone_since.setdefault(run.id, time.monotonic())
        labelled = _WORKER_LABEL in run.labels or run.work_pool_name is None
        if labelled and (
            worker is None or run.id in self._told_to_end or (run.state and run.state.is_final())
        ):
            return True
        # Without a label it may be another machine's, which took it this moment.
        return time.monotonic() - since > _PATIENCE_SECONDS * (1 if labelled else 3)

    def _end_if_cancelled(self, run: FlowRun, worker: int | None) -> None:
        """Do the worker's part if the run outlived the worker that started it."""
        if not (run.state and run.state.is_cancelling()):
            return
        processes = processes_with(FLOW_RUN, str(run.id))
        if any(_parent(one) == worker for one in processes if worker):
            return
        told = self._told_to_end.setdefault(run.id, time.monotonic())
        owner = run_lock.owner(self._locks, str(run.id))
        late = time.monotonic() - told > STOP_SECONDS
        if late or not run_lock.is_held(self._locks, str(run.id)):
            send(processes, signal.SIGKILL)
        elif owner:
            send([one for one in processes if one.pid == owner.pid], INTERRUPT)

    def _conclude(self, client: SyncPrefectClient, run_id: UUID, asked: bool = False) -> None:
        """Tell Prefect what became of a run whose process has ended; what that has told meanwhile, stands."""
        run = client.read_flow_run(run_id)
        killed = run_lock.owner(self._locks, str(run_id)) is not None
        if run.state and (state := _next_state(run, killed, asked)):
            if not asked:
                deaths = _deaths(run) + 1 if state.type == StateType.SCHEDULED else 0
                client.update_flow_run_labels(run_id, {_DEATHS: deaths})
            client.set_flow_run_state(run_id, state, force=True)
            self._say(f"run {run.name} is {state.name} now. {state.message}")
        run_lock.forget(self._locks, str(run_id))
        self._told_to_end.pop(run_id, None)


def _next_state(run: FlowRun, killed: bool, asked: bool) -> State | None:
    """What a run without a process is now; None if it is what Prefect believes."""
    assert run.state
    if run.state.is_cancelling():
        return Cancelled(message="The run was cancelled, and its process has ended.")
    # A worker that lives tells of a killed process at once, as if that were the end.
    if run.state.type not in _UNFINISHED and not (killed and run.state.is_crashed()):
        return None
    if run.work_pool_name is None:
        text = "The process of this run was killed. Start it again: it goes on from what it has computed."
        return None if run.state.is_crashed() else Crashed(message=text)
    # Its old place: it goes on before what has waited behind it.
    goes_on = partial(Scheduled, scheduled_time=run.expected_start_time, name=INTERRUPTED)
    if asked:
        return goes_on(message="The worker was stopped: the run goes on when it is started again.")
    deaths = _deaths(run) + 1
    if deaths > MOST_DEATHS:
        return Crashed(
            message=f"The process of this run was killed {deaths} times (by the kernel, if memory ran out): see the worker's "
            "log, then start it again: it goes on from what it has computed."
        )
    return goes_on(
        message=f"The process of this run was killed (time {deaths} of {MOST_DEATHS}): the run goes on from its last checkpoint."
    )


def _deaths(run: FlowRun) -> int:
    return int(run.labels.get(_DEATHS, 0))


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def _descends_from(process: psutil.Process, pids: set[int]) -> bool:
    try:
        return process.pid in pids or any(parent.pid in pids for parent in process.parents())
    except psutil.NoSuchProcess:
        return False
