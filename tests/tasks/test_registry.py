"""Against a real MLflow registry on SQLite: which version gets which alias."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.store import external
from leanpipe.evaluation.gate import Verdict
from tasks.run import Run
from tasks.tracking import registry
from tasks.tracking.runs import Tracking

NAME = "letters"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    home = Home(tmp_path_factory.mktemp("home"))
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_database}")
    tracking = Tracking(home)
    with tracking.run("run", {"leanpipe.flow_run": "one"}, {}) as run_id:
        yield Run(home, tracking, run_id)
    patch.undo()


def candidate(tmp_path: Path, content: str) -> registry.Candidate:
    folder = tmp_path / content
    folder.mkdir()
    (folder / "model.txt").write_text(content)
    return registry.Candidate(
        content, external(content, folder), {"bits_per_byte": 1.0}, "# card", "the smallest"
    )


def register(run: Run, one: registry.Candidate, promote: bool) -> registry.Registered:
    return registry.register.fn(run, NAME, one, Verdict(promote, "because"))


def test_champion_and_challenger_over_three_registrations(run: Run, tmp_path: Path):
    assert registry.champion(NAME) is None
    first, second = candidate(tmp_path, "a"), candidate(tmp_path, "b")
    assert register(run, first, promote=True).champion
    assert not register(run, second, promote=False).champion
    client = MlflowClient()
    assert str(client.get_model_version_by_alias(NAME, "champion").version) == "1"
    assert str(client.get_model_version_by_alias(NAME, "challenger").version) == "2"
    again = register(run, first, promote=False)
    assert (again.version, again.champion) == ("1", True)  # the same files are the same version


def test_the_champion_s_files_are_those_that_were_registered(run: Run):
    champion = registry.champion(NAME)
    assert champion is not None
    assert (champion.path / "model.txt").read_text() == "a"
    assert (champion.path / "README.md").read_text() == "# card"
    assert registry.model_folder(NAME, "2").joinpath("model.txt").read_text() == "b"


def test_a_model_that_is_not_there_is_named(run: Run):
    with pytest.raises(UserError, match="no model nothing@champion is registered"):
        registry.model_folder("nothing", "champion")
