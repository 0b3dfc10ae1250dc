"""What a person did in MLflow itself: an experiment deleted, a run deleted and collected. Against a real MLflow."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.cli import gc

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.store import external
from tasks.run import Run, tracked_run
from tasks.tracking import registry
from tasks.tracking.elsewhere import check_champion
from tasks.tracking.runs import Tracking
from tests.flows.servers import leanpipe

NAME = "leanpipe"
FLOW_RUN = "PREFECT__RUNTIME__FLOW_RUN__ID"
"""Prefect's own way to say outside of a flow which one is running."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_database}")
    monkeypatch.setenv(FLOW_RUN, "first")
    return home


def collect(client: MlflowClient, run_id: str) -> None:
    """Delete the run and all that is its own, by the command that MLflow names for it: here, without its imports."""
    client.delete_run(run_id)
    done = CliRunner().invoke(gc, ["--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"]])
    assert done.exit_code == 0, done.output


def version_among_artifacts(tracking: Tracking, run_id: str, folder: Path) -> None:
    """A champion whose files are its run's, as versions were that were made before."""
    client = tracking.client
    client.log_artifacts(run_id, str(folder), "model/old")
    client.create_registered_model(NAME)
    source = f"{client.get_run(run_id).info.artifact_uri}/model/old"
    tags = {registry.DIGEST: external("old", folder).digest}
    version = client.create_model_version(NAME, source, run_id, tags=tags)
    client.set_registered_model_alias(NAME, "champion", version.version)


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "model.txt").write_text("a")
    return tmp_path / "letters"


def register(run: Run, folder: Path) -> registry.ModelVersion:
    """What `register` does of a candidate, whoever judges it."""
    candidate = registry.Candidate(
        "a", external("a", folder), {"bits_per_byte": 1.0}, "# card", "the smallest"
    )
    found = registry._existing(run.tracking.client, NAME, candidate.model.digest)
    return found or registry._create(run, NAME, candidate)


def test_a_deleted_experiment_is_restored_with_its_runs(home: Home, monkeypatch: pytest.MonkeyPatch):
    with tracked_run("first", StageConfig(), home) as first:
        pass
    client = MlflowClient()
    client.delete_experiment(first.tracking.experiment_id)
    monkeypatch.setenv(FLOW_RUN, "second")
    with tracked_run("second", StageConfig(), home) as second:
        pass
    names = {run.info.run_name for run in client.search_runs([second.tracking.experiment_id])}
    assert names == {"None (first)", "None (second)"}


def test_a_champion_whose_files_are_gone_is_said_before_the_work(home: Home, letters: Path):
    check_champion(NAME)  # of a model that is not there
    with tracked_run("first", StageConfig(), home) as run:
        version_among_artifacts(run.tracking, run.mlflow_run, letters)
    check_champion(NAME)
    collect(MlflowClient(), run.mlflow_run)
    with pytest.raises(UserError, match="the champion, leanpipe version 1, has no files any more"):
        check_champion(NAME)
    done = leanpipe(home.root, "run", "--preset", "smoke")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "leanpipe: the champion, leanpipe version 1, has no files any more" in done.stderr
    assert not home.store.exists() or not list(home.store.glob("clean/*/manifest.json"))


def test_a_version_whose_files_are_gone_is_made_anew(
    home: Home, letters: Path, monkeypatch: pytest.MonkeyPatch
):
    with tracked_run("first", StageConfig(), home) as run:
        version_among_artifacts(run.tracking, run.mlflow_run, letters)
    monkeypatch.setenv(FLOW_RUN, "second")
    with tracked_run("second", StageConfig(), home) as run_again:
        assert register(run_again, letters).version == 1
        collect(MlflowClient(), run.mlflow_run)
        again = register(run_again, letters)
        assert again.version == 2 and registry.model_folder(NAME, "2").joinpath("model.txt").exists()


def test_a_version_outlives_the_run_that_made_it(home: Home, letters: Path):
    with tracked_run("first", StageConfig(), home) as run:
        version = register(run, letters)
    MlflowClient().set_registered_model_alias(NAME, "champion", version.version)
    collect(MlflowClient(), run.mlflow_run)
    check_champion(NAME)
    assert registry.model_folder(NAME, "champion").joinpath("model.txt").read_text() == "a"
