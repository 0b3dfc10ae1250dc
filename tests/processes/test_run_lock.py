"""The lock by which everybody knows whether a run's process lives: real processes, killed in every way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leanpipe.processes import run_lock

ROOT = Path(__file__).parents[2]
_HOLD = """
import os, sys, time
from pathlib import Path
from leanpipe.processes import run_lock
with run_lock.hold(Path(sys.argv[1]), "run"):
    child = os.fork() if "fork" in sys.argv else 0
    if child or "fork" not in sys.argv:
        print(child, flush=True)
    time.sleep(60)
"""


def holder(folder: Path, *how: str) -> tuple[subprocess.Popen[str], int]:
    """A process that holds the lock of `run`, and the child that it forked, if it did."""
    command = [sys.executable, "-c", _HOLD, str(folder), *how]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, int(process.stdout.readline())


def test_a_lock_is_held_for_as_long_as_its_process_lives_and_leaves_nothing(tmp_path: Path):
    with run_lock.hold(tmp_path, "run"):
        assert run_lock.is_held(tmp_path, "run")
        assert run_lock.names(tmp_path) == ["run"]
        found = run_lock.owner(tmp_path, "run")
        assert found and found.pid == os.getpid() and found.is_of_this_machine()
        run_lock.forget(tmp_path, "run")  # does nothing to one that is held
        taken = pytest.raises(run_lock.RunIsHeld, match="another process works at run run")
        with taken, run_lock.hold(tmp_path, "run"):
            pass
        assert run_lock.is_held(tmp_path, "run")
    assert not list(tmp_path.iterdir()) and not run_lock.is_held(tmp_path, "run")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_a_lock_that_is_free_and_says_whose_it_was(tmp_path: Path, number: int):
    process, _ = holder(tmp_path)
    assert run_lock.is_held(tmp_path, "run")
    process.send_signal(number)
    process.wait()
    assert not run_lock.is_held(tmp_path, "run")
    found = run_lock.owner(tmp_path, "run")
    assert found and found.pid == process.pid
    with run_lock.hold(tmp_path, "run"):  # the next attempt
        found = run_lock.owner(tmp_path, "run")
        assert found and found.pid == os.getpid()
    process, _ = holder(tmp_path)
    process.kill()
    process.wait()
    run_lock.forget(tmp_path, "run")
    assert not run_lock.names(tmp_path)


def test_what_was_forked_does_not_hold_the_lock_of_its_dead_parent(tmp_path: Path):
    process, child = holder(tmp_path, "fork")
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)  # lives
        deadline = time.monotonic() + 10
        while run_lock.is_held(tmp_path, "run") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not run_lock.is_held(tmp_path, "run")
    finally:
        os.kill(child, signal.SIGKILL)


def test_of_two_that_want_it_one_gets_it(tmp_path: Path):
    """Also while others ask whether it is held."""
    process, _ = holder(tmp_path)
    try:
        for _ in range(20):
            assert run_lock.is_held(tmp_path, "run")
        with pytest.raises(run_lock.RunIsHeld), run_lock.hold(tmp_path, "run"):
            pass
    finally:
        process.kill()
        process.wait()
