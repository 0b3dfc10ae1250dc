"""Several processes that run one stage: what crosses, and what happens when one of them fails or all are told to end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, external
from leanpipe.processes.launcher import RankDied
from leanpipe.processes.run_stage import run_stage
from tests.support import sample_stages as stages
from tests.training.blocks import Recorder

ROOT = Path(__file__).parents[2]


def run(tmp_path: Path, then: str, report=None):
    (tmp_path / "text.txt").write_text("twelve bytes")
    inputs = {"texts": (external("text", tmp_path / "text.txt"),)}
    config = stages.TogetherConfig(then=then)
    return run_stage(stages.together, config, inputs, Store(tmp_path / "store"), report or Silent())


def test_the_first_process_reports_and_its_summary_is_the_stage_s(tmp_path: Path):
    report = Recorder()
    artifact = run(tmp_path, "return", report)
    assert artifact.summary["rank"] == 0 and artifact.summary["process"] != os.getpid()
    assert report.values == [(1, {"text": 12})]
    assert artifact.peak_memory > 1_000_000
    assert {path.name for path in artifact.path.glob("*.pid")} == {"0.pid", "1.pid"}


@pytest.mark.parametrize(
    ("then", "error", "says"),
    [
        ("refuse", UserError, "^the second one refuses$"),
        ("break", RuntimeError, "(?s)process 1 of stage together failed.*a mistake in the second one"),
        ("die", RankDied, "process 1 of stage together ended with -9"),
        ("die later", RankDied, "process 1 of stage together ended with -9"),
        ("refuse later", UserError, "^the second one refuses$"),
    ],
)
def test_when_one_fails_the_others_end_and_its_error_is_ours(tmp_path: Path, then: str, error, says: str):
    before = psutil.Process().children()
    with pytest.raises(error, match=says):
        run(tmp_path, then)
    assert psutil.Process().children() == before


_ENDED = """
import sys
from pathlib import Path
from tests.processes.test_launcher import run
run(Path(sys.argv[1]), "wait")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_the_process_that_started_them(tmp_path: Path, number: signal.Signals):
    parent = subprocess.Popen([sys.executable, "-c", _ENDED, str(tmp_path)], cwd=ROOT)
    try:
        workers = [psutil.Process(wait_for_pid(tmp_path, rank)) for rank in (0,)]
        parent.send_signal(number)
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive
        assert parent.wait(timeout=20) == -number
    finally:
        parent.kill()
        parent.wait()


def wait_for_pid(root: Path, rank: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in root.glob(f"store/.partial/*/{rank}.pid"):
            if path.read_text():
                return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError("the stage did not start")
