"""Stages in a process of their own: what crosses, and what happens when somebody dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.stage import Stage
from leanpipe.core.store import Artifact, Store, external
from leanpipe.processes.fork_client import ForkServer, StageDied
from leanpipe.processes.interrupt import INTERRUPT, Interrupted, interruptible
from leanpipe.processes.run_stage import run_stage
from tests.support import sample_stages as stages

ROOT = Path(__file__).parents[2]


class Ear(Silent):
    def __init__(self) -> None:
        self.heard: list[object] = []

    def metrics(self, values, step=None):
        self.heard.append((dict(values), step))

    def progress(self, done, total, what):
        self.heard.append((done, total, what))


@pytest.fixture(scope="module")
def fork_server():
    """One for all: its imports take seconds."""
    fork_server = ForkServer()
    yield fork_server
    fork_server.stop()


@pytest.fixture
def run(fork_server: ForkServer, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("twelve bytes")
    inputs = {"texts": (external("text", text),)}

    def start(stage: Stage, ear: Ear | None = None) -> Artifact:
        return fork_server.run(stage, stages.CountConfig(), inputs, Store(tmp_path / "store"), ear or Ear())

    return start


def test_the_result_metrics_and_progress_come_across(run):
    ear = Ear()
    artifact = run(stages.count, ear)
    assert artifact.summary["total"] == 12
    assert artifact.summary["process"] != os.getpid()
    assert artifact.summary["imported_by"] == artifact.summary["helper"]  # and not by each stage again
    assert ear.heard == [({"total": 12}, 1), (1, 1, "files")]


def test_what_is_done_meanwhile_is_done_while_the_stage_computes_and_may_fail(
    fork_server: ForkServer, tmp_path: Path
):
    (tmp_path / "text.txt").write_text("twelve bytes")
    inputs, store, ear = (
        {"texts": (external("text", tmp_path / "text.txt"),)},
        Store(tmp_path / "store"),
        Ear(),
    )
    done_here = []

    def meanwhile() -> None:
        until = time.monotonic() + 60
        while not list(store.manifests(stages.count.name)) and time.monotonic() < until:
            time.sleep(0.05)
        done_here.append(len(list(store.manifests(stages.count.name))))
        raise ImportError("of something that nobody needs yet")

    artifact = fork_server.run(stages.count, stages.CountConfig(), inputs, store, ear, meanwhile)
    assert done_here == [1] and artifact.summary["total"] == 12
    assert ear.heard == [({"total": 12}, 1), (1, 1, "files")]  # after that, but all of it
    fork_server.run(stages.count, stages.CountConfig(), inputs, store, ear, meanwhile)
    assert done_here == [1]  # nothing is computed


def test_what_the_store_has_starts_no_helper_and_shows_its_metrics(tmp_path: Path):
    (tmp_path / "text.txt").write_text("twelve bytes")
    inputs, store = {"texts": (external("text", tmp_path / "text.txt"),)}, Store(tmp_path / "store")
    computed = run_stage(stages.count, stages.CountConfig(), inputs, store, Silent())
    before, ear = psutil.Process().children(recursive=True), Ear()
    assert ForkServer().run(stages.count, stages.CountConfig(), inputs, store, ear) == computed
    assert psutil.Process().children(recursive=True) == before
    assert ear.heard == [({"total": 12}, 1)]


def test_a_person_s_mistake_comes_across_as_its_sentence(run):
    with pytest.raises(UserError, match=r"^texts: there is nothing to count, give more$"):
        run(stages.refused)


def test_a_mistake_of_ours_comes_across_with_its_traceback(run):
    with pytest.raises(RuntimeError, match=r"(?s)stage broken.*ZeroDivisionError: a mistake in the stage"):
        run(stages.broken)


def test_a_killed_stage_is_an_error_that_says_so_and_the_next_attempt_resumes(run):
    with pytest.raises(StageDied, match="killed_once was killed by SIGKILL"):
        run(stages.killed_once)
    assert run(stages.killed_once).summary == {"resumed_from": "half"}


@pytest.mark.parametrize("then", [400, 1])
def test_every_attempt_at_a_result_counts(fork_server: ForkServer, tmp_path: Path, then: int):
    """Its time always, and its memory if the settings are those of the result: less at once takes less."""
    (tmp_path / "text.txt").write_text("twelve bytes")
    inputs, store = {"texts": (external("text", tmp_path / "text.txt"),)}, Store(tmp_path / "store")
    work = stages.killed_at_work
    with pytest.raises(StageDied, match="SIGKILL"):
        fork_server.run(work, stages.AtOnceConfig(megabytes=400), inputs, store, Silent())
    ear = Ear()
    fork_server.run(work, stages.AtOnceConfig(megabytes=then), inputs, store, ear)
    assert ear.heard == [({"attempts": 2}, None)]
    ((folder, manifest),) = store.manifests(work.name)
    # Of the first attempt at least half of its 4 s is known, although it was killed; the second ends at once.
    assert manifest.seconds > 2 and manifest.attempts == 2
    # A process has 420 MB before it does anything.
    assert (manifest.peak_memory > 700_000_000) == (then == 400)
    assert manifest.summary["peak_memory"] == manifest.peak_memory
    assert not list(folder.rglob("attempts.json")) and not list((store.root / ".partial").iterdir())


def test_the_memory_of_a_stage_is_measured_and_returned(run):
    helper = psutil.Process(run(stages.count).summary["helper"])
    before = helper.memory_info().rss
    assert run(stages.greedy).peak_memory > 300_000_000
    assert helper.memory_info().rss < before + 50_000_000
    assert not helper.children()


def test_stage_and_helper_die_with_a_parent_that_is_killed(tmp_path: Path):
    (tmp_path / "text.txt").write_text("x")
    code = (
        "import sys, pathlib\n"
        "from leanpipe.processes.fork_client import ForkServer\n"
        "from leanpipe.core.report import Silent\n"
        "from leanpipe.core.store import Store, external\n"
        "from tests.support import sample_stages as stages\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "inputs = {'texts': (external('t', root / 'text.txt'),)}\n"
        "ForkServer().run(stages.endless, stages.CountConfig(), inputs, Store(root / 'store'), Silent())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    try:
        child = psutil.Process(_wait_for_pid(tmp_path / "child.pid"))
        helper = child.parent()
        assert helper is not None and helper.ppid() == parent.pid
        parent.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs([child, helper], timeout=20)
        assert not alive
    finally:
        parent.kill()
        parent.wait()


def _wait_for_pid(path: Path) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.1)
    raise AssertionError("the stage did not start")


def test_a_run_that_is_interrupted_hears_its_stage_out_before_it_ends(tmp_path: Path):
    """What a stage says while it writes its checkpoint is said once: the next attempt begins after it."""

    class Interrupt(Ear):
        def metrics(self, values, step=None):
            super().metrics(values, step)
            os.kill(os.getpid(), INTERRUPT)

    (tmp_path / "text.txt").write_text("x")
    inputs, ear, own = {"texts": (external("text", tmp_path / "text.txt"),)}, Interrupt(), ForkServer()
    try:
        with pytest.raises(Interrupted), interruptible():
            own.run(stages.careful, stages.CountConfig(), inputs, Store(tmp_path / "store"), ear)
    finally:
        own.stop()
    assert ear.heard == [({"began": 1}, None), ({"last": 1}, None)]
    assert (tmp_path / "ended.txt").read_text() == "in good order"


def test_an_interruption_loses_nothing_that_is_just_being_told(tmp_path: Path):
    """It comes after a report was read, and before anybody heard it: the later ones would hide that it is missing."""

    class Interrupt(Ear):
        def metrics(self, values, step=None):
            if step == 5:
                os.kill(os.getpid(), INTERRUPT)
            super().metrics(values, step)

    (tmp_path / "text.txt").write_text("x")
    inputs, ear, own = {"texts": (external("text", tmp_path / "text.txt"),)}, Interrupt(), ForkServer()
    try:
        with pytest.raises(Interrupted), interruptible():
            own.run(stages.talking, stages.CountConfig(), inputs, Store(tmp_path / "store"), ear)
    finally:
        own.stop()
    steps = int((tmp_path / "steps.txt").read_text())
    assert steps >= 5 and [step for _, step in ear.heard] == list(range(1, steps + 1))


def test_a_stage_is_told_to_end_before_its_helper_is_stopped(fork_server: ForkServer, run, tmp_path: Path):
    """The last of this file: the helper is gone afterwards."""

    class Stop(Ear):
        def metrics(self, values, step=None):
            threading.Thread(target=fork_server.stop).start()

    with pytest.raises(StageDied):
        run(stages.careful, Stop())
    assert (tmp_path / "ended.txt").read_text() == "in good order"
