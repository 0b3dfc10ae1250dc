"""Against a real MLflow on SQLite."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from leanpipe.core.home import Home
from leanpipe.core.store import Artifact
from leanpipe.corpus.clean import clean
from tasks.tracking.runs import Tracking


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def tracking(home: Home, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_database}")
    return Tracking(home)


def test_the_same_tags_find_the_same_run_again(tracking: Tracking):
    tags = {"leanpipe.flow_run": "one"}
    with tracking.run("first", tags, {"a": 1}) as first:
        pass
    with tracking.run("again", tags, {"a": 1}) as second:
        tracking.wait_until_sent("the test")
        assert tracking.client.get_run(second).info.status == "RUNNING"
    assert first == second
    assert tracking.client.get_run(first).info.status == "FINISHED"


def test_a_stage_that_was_cut_off_goes_on_in_the_same_run(tracking: Tracking):
    """Another flow run finishes the stage."""
    with tracking.run("one", {"leanpipe.flow_run": "first"}, {}) as first:
        with (
            pytest.raises(KeyboardInterrupt),
            tracking.stage_run(first, "distill", "k1", {"tokens": 10}) as one,
        ):
            for step in (1, 2, 3):
                tracking.report(one).metrics({"loss": 1 / step}, step)
            raise KeyboardInterrupt
        cut = tracking.id_of(one)
    assert tracking.client.get_run(cut).info.status == "KILLED"

    with tracking.run("two", {"leanpipe.flow_run": "second"}, {}) as second:
        with tracking.stage_run(second, "distill", "k1", {"tokens": 10, "processes": 2}) as two:
            for step in (2, 3, 4):  # from the checkpoint after step 1
                tracking.report(two).metrics({"loss": 1 / step}, step)
        with tracking.stage_run(
            second, "evaluate", "k1", {}
        ) as other:  # what is finished is not gone on with
            pass
        assert tracking.id_of(two) == cut != tracking.id_of(other)
    run = tracking.client.get_run(cut)
    assert run.info.status == "FINISHED" and run.data.params == {"tokens": "10", "processes": "2"}
    assert run.data.tags["mlflow.parentRunId"] == second and run.data.tags["leanpipe.begun_by"] == first
    assert "leanpipe.error" not in run.data.tags
    assert tracking.client.get_run(first).data.tags["leanpipe.resumed.distill"] == cut
    history = tracking.client.get_metric_history(cut, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
        (4, 0.25),
    ]


def test_a_failure_ends_the_run_as_failed_with_its_reason(tracking: Tracking):
    with pytest.raises(ZeroDivisionError), tracking.run("bad", {"leanpipe.flow_run": "two"}, {}) as run_id:
        raise ZeroDivisionError("nothing to divide")
    run = tracking.client.get_run(run_id)
    assert run.info.status == "FAILED" and run.data.tags["leanpipe.error"] == "nothing to divide"


def test_more_parameters_than_one_request_takes_are_all_logged(tracking: Tracking):
    with tracking.run("many", {"leanpipe.flow_run": "three"}, {f"p{i}": i for i in range(250)}) as run_id:
        pass
    assert len(tracking.client.get_run(run_id).data.params) == 250


def test_metrics_keep_their_steps_and_drop_what_is_not_a_number(tracking: Tracking):
    with tracking.run("steps", {"leanpipe.flow_run": "four"}, {}) as run_id:
        report = tracking.report(run_id)
        for step in range(700):
            report.metrics({"loss": 1 / (step + 1)}, step)
        report.metrics({"broken": float("nan")}, 0)
    history = tracking.client.get_metric_history(run_id, "loss")
    assert [metric.step for metric in history] == list(range(700))
    assert "broken" not in tracking.client.get_run(run_id).data.metrics


def test_the_flow_s_run_shows_the_figures_of_its_stages(tracking: Tracking, tmp_path: Path):
    artifact = Artifact(
        name="x", path=tmp_path, digest="d", summary={"loss": 2, "note": "short"}, seconds=3.5, peak_memory=7
    )
    with tracking.run("parent", {"leanpipe.flow_run": "five"}, {}) as run_id:
        tracking.log_compared(run_id, {"mine": artifact})
    run = tracking.client.get_run(run_id)
    expected = {"stages/mine/loss": 2, "stages/seconds/mine": 3.5, "stages/peak_memory_bytes/mine": 7}
    assert run.data.metrics == expected
    assert run.data.tags["mine.note"] == "short"


def test_documents_are_a_data_set_with_columns_and_figures(tracking: Tracking, tmp_path: Path):
    folder = tmp_path / 'it is "here"'
    documents = Artifact(
        name=clean.name,
        path=folder,
        digest="d" * 64,
        summary={"documents_kept": 290, "characters_kept": 1_675_433, "note": "text"},
    )
    other = Artifact(name="model", path=folder, digest="e" * 64)
    with tracking.run("data", {"leanpipe.flow_run": "six"}, {}) as run_id:
        tracking.log_inputs(run_id, {"documents": documents, "teacher": other})
        tracking.log_inputs(run_id, {"documents": documents})  # as a flow run that is resumed does
    given = tracking.client.get_run(run_id).inputs.dataset_inputs
    by_role = {one.tags[0].value: one.dataset for one in given}
    assert len(given) == 2 and set(by_role) == {"documents", "teacher"}
    assert json.loads(by_role["documents"].source) == {"uri": str(folder)}
    columns = json.loads(by_role["documents"].schema)["mlflow_colspec"]
    assert [column["name"] for column in columns] == ["id", "text", "source", "language"]
    figures = {"num_rows": 290, "documents_kept": 290, "characters_kept": 1_675_433}
    assert json.loads(by_role["documents"].profile) == figures
    assert by_role["teacher"].schema is None and by_role["teacher"].profile is None


def test_artifacts_of_our_own_server_lie_in_our_home(tracking: Tracking, home: Home):
    experiment = MlflowClient().get_experiment(tracking.experiment_id)
    assert experiment.artifact_location == home.mlflow_artifacts.as_uri()
