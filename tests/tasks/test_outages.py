"""Whatever keeps MLflow from answering: no stage waits for it or ends for it, and in the end it knows everything, in order."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.store import Artifact
from tasks.tracking import spool
from tasks.tracking.patience import PATIENCE
from tasks.tracking.runs import Tracking
from tasks.tracking.writer import end_dead_runs
from tests.support.mlflow_server import OUTAGES, MlflowServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def home(tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    return Home(tmp_path / "home")


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_stage_goes_on_while_mlflow_does_not_answer(server: MlflowServer, home: Home, outage: str):
    tracking = Tracking(home)
    with tracking.run("quiet", {"leanpipe.flow_run": f"quiet {outage}"}, {"a": 1}) as quiet:
        tell_first_half(tracking, quiet, home)
        tell_second_half(tracking, quiet, home)
    with tracking.run("disturbed", {"leanpipe.flow_run": f"disturbed {outage}"}, {"a": 1}) as disturbed:
        tell_first_half(tracking, disturbed, home)
        tracking.wait_until_sent("the test")
        end_outage = server.fail(outage)
        tell_second_half(tracking, disturbed, home)
        # The stage has come to its end, and MLflow cannot know.
        assert left(home, f"disturbed {outage}")
        end_outage()
    assert known(disturbed) == known(quiet)
    assert spool.names(home) == []


def test_a_figure_that_a_stage_reported_is_not_told_again_with_its_result(server: MlflowServer, home: Home):
    tracking = Tracking(home)
    flow = tracking.run("once", {"leanpipe.flow_run": "figures"}, {})
    with flow as run, tracking.stage_run(run, "distill", "a key", {}) as stage:
        tracking.report(stage).metrics({"loss": 0.5}, 0)
        time.sleep(0.01)  # MLflow takes the same figure of the same moment for one
        tracking.log_figures(stage, {"loss": 0.5, "tokens": 3})
    assert known(run)["children"]["distill"]["metrics"] == {"loss": [(0, 0.5)], "tokens": [(0, 3.0)]}


def test_a_run_that_ends_while_mlflow_is_away_leaves_what_it_told(
    server: MlflowServer, home: Home, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(PATIENCE, "2")
    tracking = Tracking(home)
    with tracking.run("away", {"leanpipe.flow_run": "away"}, {}) as run:
        end_outage = server.fail("broken")
        tell_first_half(tracking, run, home)
    assert spool.names(home) == ["away"] and end_dead_runs(home) == []
    end_outage()
    assert end_dead_runs(home) == ["away"] and spool.names(home) == []
    assert known(run)["status"] == "FINISHED"


def test_what_needs_an_answer_says_so_in_one_sentence(
    server: MlflowServer, home: Home, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(PATIENCE, "2")
    tracking = Tracking(home)
    end_outage = server.fail("silent")
    try:
        with pytest.raises(UserError, match="has not answered for 2 s, and the run needs it"):
            Tracking(home)
        never = tracking.run("never", {"leanpipe.flow_run": "never"}, {})
        with pytest.raises(UserError, match="has not answered for 2 s, and the run needs it"), never:
            raise AssertionError("it began without MLflow")
    finally:
        end_outage()


_KILLED_WHILE_AWAY = """
import os, signal, sys
from pathlib import Path
from leanpipe.core.home import Home
from tasks.tracking.runs import Tracking
from tests.tasks.test_outages import tell_first_half, tell_second_half

home = Home(Path(sys.argv[1]))
tracking = Tracking(home)
with tracking.run("killed", {"leanpipe.flow_run": "killed"}, {"a": 1}, "k") as run:
    tell_first_half(tracking, run, home)
    tracking.wait_until_sent("the test")
    print(run, flush=True)
    assert sys.stdin.readline()
    with tracking.stage_run(run, "evaluate", "k3", {}) as stage:
        tracking.report(stage).metrics({"bits": 1.5}, 1)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_told_arrives_and_its_runs_end(server: MlflowServer, home: Home):
    """Killed while MLflow was away: neither lived to hear of the other's end."""
    with started(_KILLED_WHILE_AWAY, home) as process:
        assert process.stdin and process.stdout
        run = process.stdout.readline().strip()
        end_outage = server.fail("broken")
        process.stdin.write("go\n")
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
    end_outage()
    assert known(run)["status"] == "RUNNING"
    assert end_dead_runs(home) == ["killed"]
    seen = known(run)
    assert (seen["status"], seen["children"]["evaluate"]["status"]) == ("KILLED", "KILLED")
    assert "was killed" in seen["tags"]["leanpipe.error"]
    assert seen["children"]["evaluate"]["metrics"] == {"bits": [(1, 1.5)]}
    # The same again goes on in the same runs, and clears what is no longer true.
    tracking = Tracking(home)
    with tracking.run("killed", {"leanpipe.flow_run": "another"}, {"a": 1}, "k") as again:
        tracking.wait_until_sent("the test")
        assert again == run and known(run)["status"] == "RUNNING"
        with tracking.stage_run(again, "evaluate", "k3", {}):
            pass
    seen = known(run)
    assert (seen["status"], seen["children"]["evaluate"]["status"]) == ("FINISHED", "FINISHED")
    assert (
        "leanpipe.error" not in seen["tags"] and "leanpipe.error" not in seen["children"]["evaluate"]["tags"]
    )


def left(home: Home, name: str) -> int:
    """Bytes of what was told of a run that MLflow does not know."""
    state = spool.read_state(home, name)
    assert state
    return (home.spool / name / f"entries-{state.segment}.jsonl").stat().st_size - state.sent


@pytest.mark.parametrize("lost", ["everything", "the last step"])
def test_what_is_told_twice_is_known_once(server: MlflowServer, home: Home, tmp_path: Path, lost: str):
    """As after a power cut that took what was written down of how much was sent."""
    tracking = Tracking(home)
    with tracking.run("once", {"leanpipe.flow_run": f"once {lost}"}, {"a": 1}) as run:
        tell_first_half(tracking, run, home)
        tell_second_half(tracking, run, home)
        tracking.wait_until_sent("the test")
        once = known(run)
        other = Home(tmp_path / "other")
        shutil.copytree(home.spool, other.spool, ignore=shutil.ignore_patterns("*.lock"))
        forget_what_was_sent(other, f"once {lost}", everything=lost == "everything")
        assert end_dead_runs(other) == [f"once {lost}"]
    assert known(run) == once | {"status": "FINISHED"}


def forget_what_was_sent(home: Home, name: str, everything: bool) -> None:
    """Have the spool send everything again, or all from the first figure on."""
    state = spool.read_state(home, name)
    assert state
    if everything:
        state = state.model_copy(update={"sent": 0, "ids": {}, "open": [], "told": {}})
    else:
        text = (home.spool / name / "entries-0.jsonl").read_text()
        state.sent = text.rindex("\n", 0, text.index('"metrics"')) + 1
    (home.spool / name / "state.json").write_text(state.model_dump_json())


_AT_WORK = """
import sys
from pathlib import Path
from leanpipe.core.home import Home
from tasks.tracking.runs import Tracking

tracking = Tracking(Home(Path(sys.argv[1])))
with tracking.run("same", {"leanpipe.flow_run": sys.argv[2]}, {}, "same settings") as flow:
    with tracking.stage_run(flow, "distill", "same key", {}) as stage:
        print(flow, tracking.id_of(stage), flush=True)
        assert sys.stdin.readline()
"""


def test_runs_that_are_at_work_together_keep_their_own(server: MlflowServer, home: Home):
    """Two command lines started at once: neither goes on with what the other has just begun."""
    with started(_AT_WORK, home, "left") as left, started(_AT_WORK, home, "right") as right:
        said = [process.stdout.readline().split() for process in (left, right) if process.stdout]
        for process in (left, right):
            process.communicate("go\n", timeout=60)
            assert process.returncode == 0
    assert len({run for runs in said for run in runs}) == 4  # two flows, two stages
    for flow, stage in said:
        assert [child.info.run_id for child in children(flow)] == [stage]
        assert known(flow)["children"]["distill"]["status"] == "FINISHED"


def started(script: str, home: Home, *arguments: str) -> subprocess.Popen[str]:
    """Python with the script, in the background."""
    return subprocess.Popen(
        [sys.executable, "-c", script, str(home.root), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )


def tell_first_half(tracking: Tracking, run: str, home: Home) -> None:
    """A stage, from its beginning to its end."""
    with tracking.stage_run(run, "distill", f"k1 {run}", {"tokens": 10}) as stage:
        for step in range(5):
            tracking.report(stage).metrics({"loss": 1 / (step + 1)}, step)


def tell_second_half(tracking: Tracking, run: str, home: Home) -> None:
    """Everything that can be told of a stage and of its flow."""
    report = home.root / "report"
    report.mkdir(exist_ok=True)
    (report / "note.md").write_text("a note")
    made = Artifact(name="model", path=report, digest="d" * 64, summary={"loss": 0.5, "note": "short"})
    with tracking.stage_run(run, "finetune", f"k2 {run}", {"rank": 8}) as stage:
        for step in range(5):
            tracking.report(stage).metrics({"loss": 1 / (step + 2), "rate": 0.1}, step)
        tracking.log_figures(stage, made.summary)
        tracking.log_inputs(stage, {"teacher": made})
        tracking.log_files(stage, report, "report")
    (report / "note.md").unlink()
    tracking.log_compared(run, {"finetune": made})
    tracking.log_origin(run, "distill", f"k1 {run}")
    tracking.log_text(run, "# plan", "plan.md")


def known(run_id: str) -> dict[str, Any]:
    """What MLflow knows of a run and its children, without ids and times."""
    client = MlflowClient()
    run = client.get_run(run_id)
    histories = {name: client.get_metric_history(run_id, name) for name in run.data.metrics}
    own = ("mlflow.", "leanpipe.key", "leanpipe.owner", "leanpipe.flow_run", "leanpipe.cached")
    return {
        "status": run.info.status,
        "parameters": run.data.params,
        "metrics": {
            name: [(metric.step, metric.value) for metric in sorted(history, key=lambda one: one.step)]
            for name, history in histories.items()
        },
        "tags": {name: value for name, value in run.data.tags.items() if not name.startswith(own)},
        "cached": [name for name in run.data.tags if name.startswith("leanpipe.cached")],
        "inputs": [one.dataset.name for one in run.inputs.dataset_inputs],
        "files": sorted(_files(client, run_id, "")),
        "children": {
            child.data.tags["leanpipe.stage"]: known(child.info.run_id) for child in children(run_id)
        },
    }


def children(run_id: str) -> list[Run]:
    """The runs of the stages of a flow's run."""
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'"))


def _files(client: MlflowClient, run_id: str, folder: str) -> Iterator[str]:
    for file in client.list_artifacts(run_id, folder):
        if file.is_dir:
            yield from _files(client, run_id, file.path)
        else:
            yield f"{file.path} {file.file_size}"
