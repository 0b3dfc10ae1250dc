"""Whatever a command starts ends with it, however it ends: Prefect's temporary server, the helper, a stage, a library's pool."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.flows.servers import ROOT, environment

END_SECONDS = 90
"""A training may finish its step and write a checkpoint (GRACE_SECONDS); the machine may have much else to do."""

POOL = """
import os, pathlib, sys, time
from leanpipe.corpus.passes.execution import ExecutionConfig, run_tasks
from tests.flows.test_orphans import Endless
folder = pathlib.Path(sys.argv[1])
run_tasks(Endless(folder), 2, ExecutionConfig(workers=2), folder / "logs")
"""


class Endless:
    """A task of cleaning that says that it began, and stays."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __call__(self, number: int) -> None:
        (self._folder / f"{number}.began").touch()
        time.sleep(600)


def processes_of(home: Path) -> list[psutil.Process]:
    """All that live and were started for this home, whoever is their parent by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.environ().get("LEANPIPE_HOME") == str(home)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def start(home: Path, *arguments: str) -> subprocess.Popen:
    home.mkdir(exist_ok=True)
    with (home / "said.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment(home), stdout=said, stderr=said
        )


def wait_for(
    condition: Callable[[], bool], command: subprocess.Popen, home: Path, seconds: float = 300
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert command.poll() is None and time.monotonic() < deadline, (home / "said.txt").read_text()
        time.sleep(0.2)


def kill_and_list_survivors(command: subprocess.Popen, home: Path, number: signal.Signals) -> list[str]:
    """Say what still lives when there was time enough to end; what does is killed."""
    started = [one for one in processes_of(home) if one.pid != command.pid]
    assert started
    command.send_signal(number)
    command.wait(END_SECONDS)
    deadline = time.monotonic() + END_SECONDS
    while (alive := processes_of(home)) and time.monotonic() < deadline:
        time.sleep(0.5)
    said = [" ".join(one.cmdline()) for one in alive]
    for one in alive:
        one.kill()
    return said


def a_stage_runs(home: Path) -> bool:
    """Whether a child of the helper lives: then Prefect's server does, too."""
    with contextlib.suppress(psutil.Error):
        for one in processes_of(home):
            parent = one.parent()
            if parent and "leanpipe.processes.fork_server" in parent.cmdline():
                return True
    return False


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.chaos), signal.SIGKILL])
def test_nothing_that_a_run_started_outlives_it(tmp_path: Path, number: signal.Signals):
    command = start(tmp_path / "home", "-m", "flows.cli.main", "run", "distill", "--preset", "smoke")
    try:
        wait_for(lambda: a_stage_runs(tmp_path / "home"), command, tmp_path / "home")
        assert kill_and_list_survivors(command, tmp_path / "home", number) == []
    finally:
        command.kill()
        command.wait()


def test_nothing_of_a_pool_outlives_the_process_that_started_it(tmp_path: Path):
    command = start(tmp_path, "-c", POOL, str(tmp_path))
    try:
        wait_for(lambda: len(list(tmp_path.glob("*.began"))) == 2, command, tmp_path)
        assert kill_and_list_survivors(command, tmp_path, signal.SIGKILL) == []
    finally:
        command.kill()
        command.wait()


def test_a_child_that_starts_too_late_to_be_bound_ends_too():
    """Its parent was gone before the kernel could be asked."""
    bound = "from leanpipe.processes.parent_death import die_with_parent; import os; "
    command = [sys.executable, "-c", f"{bound}die_with_parent(parent=os.getppid() + 1); print('lives')"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
