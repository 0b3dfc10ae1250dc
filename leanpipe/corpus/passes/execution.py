"""Where the shards of a corpus are worked on: here, on Ray, or on Slurm, by datatrove's executors.

A task is `work(task number)`, and must leave its result whole or not at all: a task that has left one is not run again.
"""

import contextvars
import functools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.keys import NotInKey
from leanpipe.processes.parent_death import forks_die_with_us

Work = Callable[[int], None]

_WHERE = "where and how fast the work is done, not what it is"

_POLL = 0.5  # seconds between two looks at how far the tasks are
_SLURM_POLL = 5.0


class ExecutionConfig(StageConfig):
    """Where and in how many pieces the corpus is worked on."""

    executor: Annotated[Literal["local", "ray", "slurm"], NotInKey(_WHERE)] = "local"
    """Processes of this machine, a Ray cluster (needs `leanpipe[ray]`; RAY_ADDRESS, or a local one), or Slurm jobs."""
    workers: Annotated[int, NotInKey(_WHERE)] = Field(0, ge=0, le=100_000)
    """How many shards are worked on at once; 0: as many as this machine has cores."""
    shard_megabytes: float = Field(64, ge=0.001, le=1_000_000)
    """How much of the corpus, in its files' sizes, makes a shard: what is lost when a worker is killed."""
    slurm_partition: Annotated[str, NotInKey(_WHERE)] = Field("", pattern=r"^[\w.,-]{0,200}$")
    """Partition of the Slurm jobs."""
    slurm_hours: Annotated[int, NotInKey(_WHERE)] = Field(24, ge=1, le=10_000)
    """Longest time that one Slurm job may take."""


@dataclass(frozen=True)
class _Step:
    """`work` as datatrove calls the blocks of a pipeline."""

    work: Work

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        _end_with_pool()
        self.work(rank)


def run_tasks(
    work: Work, tasks: int, config: ExecutionConfig, folder: Path, watch: Callable[[], None] = lambda: None
) -> None:
    """Run `work(0)` to `work(tasks - 1)`, each in some process, and wait for all. `work` must be picklable.

    `folder` is where the executor keeps its logs; `watch` is called now and then meanwhile, from another thread.
    """
    with _Watching(watch):
        if config.executor == "ray":
            _run_on_ray(work, tasks, config, folder)
        elif config.executor == "slurm":
            _run_on_slurm(work, tasks, config, folder)
        elif tasks == 1 or worker_count(config) == 1:
            for task in range(tasks):  # a process of its own would only cost its start
                work(task)
        else:
            _run_locally(work, tasks, config, folder)


@functools.cache
def _end_with_pool() -> None:
    """In a process of a pool, begin to watch for the end of the one that started the pool, to end with it.

    It is no child of that one but of a helper, which waits for it: the kernel cannot be asked to end it.
    """
    import multiprocess
    from multiprocess.connection import wait

    if parent := multiprocess.parent_process():

        def end() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=end, daemon=True).start()


def worker_count(config: ExecutionConfig) -> int:
    """Tell how many tasks run at once."""
    return config.workers or device.cores()


def check_execution(config: ExecutionConfig) -> None:
    """Raise UserError if the executor is not to be had here."""
    if config.executor == "ray":
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise UserError("clean.execution.executor=ray: Ray is missing, install leanpipe[ray]") from error
    if config.executor == "slurm":
        if not shutil.which("sbatch"):
            raise UserError(
                "clean.execution.executor=slurm: there is no sbatch here; run on a machine that submits to Slurm"
            )
        if not config.slurm_partition:
            raise UserError(
                "clean.execution.executor=slurm: name the partition in clean.execution.slurm_partition"
            )


def _run_locally(work: Work, tasks: int, config: ExecutionConfig, folder: Path) -> None:
    from leanpipe.corpus.passes.quiet_executors import QuietLocalExecutor

    count = min(tasks, worker_count(config))
    # What is done is seen by its result, not by datatrove's notes of it.
    with forks_die_with_us():
        QuietLocalExecutor([_Step(work)], tasks, count, str(folder), skip_completed=False).run()


def _run_on_ray(work: Work, tasks: int, config: ExecutionConfig, folder: Path) -> None:
    import ray

    from leanpipe.corpus.passes.quiet_executors import QuietRayExecutor

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    try:
        executor = QuietRayExecutor(
            [_Step(work)],
            tasks,
            worker_count(config),
            logging_dir=str(folder),
            skip_completed=False,
            mem_per_cpu_gb=1,
        )
        executor.run()
    finally:
        if ours:
            ray.shutdown()


def slurm_executor(work: Work, tasks: int, config: ExecutionConfig, folder: Path) -> Any:
    """Make datatrove's executor for Slurm, which submits the tasks as one array of jobs."""
    from datatrove.executor.slurm import SlurmPipelineExecutor

    return SlurmPipelineExecutor(
        [_Step(work)],
        tasks,
        time=f"{config.slurm_hours}:00:00",
        partition=config.slurm_partition,
        workers=worker_count(config),
        logging_dir=str(folder),
        job_name="leanpipe",
        mem_per_cpu_gb=2,
    )


def _run_on_slurm(work: Work, tasks: int, config: ExecutionConfig, folder: Path) -> None:
    executor = slurm_executor(work, tasks, config, folder)
    executor.run()
    command = ["squeue", "-h", "-j", str(executor.job_id)]
    waiting = True
    while left := executor.get_incomplete_ranks(skip_completed=True):
        if not waiting:  # asked before its results were looked for
            raise RuntimeError(f"{len(left)} of {tasks} Slurm tasks did not finish: see {folder}/slurm_logs")
        time.sleep(_SLURM_POLL)
        waiting = bool(subprocess.run(command, capture_output=True, text=True).stdout.strip())


class _Watching:
    """Calls `watch` every now and then, and once more at the end."""

    def __init__(self, watch: Callable[[], None]):
        self._watch = watch
        self._ended = threading.Event()
        # With this thread's context: a watcher may report to the flow run that is running.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._watch()

    def _run(self) -> None:
        while not self._ended.wait(_POLL):
            self._watch()
