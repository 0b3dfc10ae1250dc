"""How the threads of a stage wait, wherever it runs, and how many there are where a container has less than its machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leanpipe.core import device
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, external
from leanpipe.processes.fork_client import ForkServer
from leanpipe.processes.run_stage import run_stage
from leanpipe.processes.threads import thread_environment
from tests.support import sample_stages as stages

ROOT = Path(__file__).parents[2]
MOST = 0.001
"""Seconds of a core that a thread may burn after each part of the work: left alone, OpenMP burns 3 to 8 milliseconds."""

pytestmark = pytest.mark.skipif(device.cores() < 2, reason="two threads on one core wait in another way")

IN_PLACE = """
import sys
from leanpipe.core.home import Home
from pathlib import Path
from tasks.environment import prepare_environment
prepare_environment(Home(Path(sys.argv[1])))
from tests.processes.test_threads import burnt_here
print(burnt_here(Path(sys.argv[1]), 1))
"""


@pytest.fixture(autouse=True)
def as_a_person_starts_it(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)


def inputs(folder: Path) -> dict:
    (folder / "text.txt").write_text("text")
    return {"texts": (external("text", folder / "text.txt"),)}


def burnt_here(folder: Path, processes: int) -> float:
    """What the stage burns that runs in this process, or in several that this one starts."""
    config = stages.TogetherConfig(processes=processes)
    made = run_stage(stages.waiting, config, inputs(folder), Store(folder / "store"), Silent())
    return made.summary["seconds_per_pause"]


def test_a_waiting_thread_gives_its_core_back_in_a_process_of_its_own(tmp_path: Path):
    fork_server, config = ForkServer(), stages.TogetherConfig(processes=1)
    try:
        made = fork_server.run(stages.waiting, config, inputs(tmp_path), Store(tmp_path / "store"), Silent())
    finally:
        fork_server.stop()
    assert made.summary["seconds_per_pause"] < MOST


def test_so_it_does_in_one_of_several_processes(tmp_path: Path):
    assert burnt_here(tmp_path, 2) < MOST


def test_so_it_does_where_every_stage_runs_in_the_command_s_process(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", IN_PLACE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < MOST


def test_what_a_person_has_set_stays():
    assert thread_environment({"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "3"}) == {}
    assert thread_environment({"GOMP_SPINCOUNT": "7"}).keys().isdisjoint({"GOMP_SPINCOUNT"})


@pytest.mark.parametrize(
    ("files", "membership"),
    [
        ({"job/cpu.max": "100000 100000", "cpu.max": "max 100000"}, "0::/job\n"),
        ({"cpu.max": "150000 100000"}, "0::/of/the/host\n"),
        (
            {"cpu/job/cpu.cfs_quota_us": "50000", "cpu/job/cpu.cfs_period_us": "100000"},
            "3:cpu,cpuacct:/job\n",
        ),
    ],
)
def test_a_container_has_the_cores_whose_time_it_may_use(tmp_path: Path, files, membership):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    assert device.cores(membership, tmp_path) == 1


def test_without_a_limit_all_cores_count(tmp_path: Path):
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert device.cores("0::/\n", tmp_path) == device.cores("", tmp_path) == len(os.sched_getaffinity(0))
