"""What does not answer as it was trained is not registered: real models, a real registry, and the server that would serve them."""

import math
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from mlflow import MlflowClient

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.store import Artifact, external
from leanpipe.corpus.clean import CleanConfig
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.evaluation.parity.parity import ParityConfig
from leanpipe.settings.flows import PipelineConfig
from tasks.promote import choose_sound, promote
from tasks.tracking.runs import Tracking
from tests.corpus.cleaning import cleaned, write_corpus
from tests.evaluation.parity.plants import doubled_bos, eos_of_template
from tests.evaluation.parity.trained import PROMPTS, write_form, write_trained
from tests.tasks.test_contest import CONFIG, Untracked


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory):
    home = Home(tmp_path_factory.mktemp("home"))
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_database}")
    yield home
    patch.undo()


@pytest.fixture(scope="module")
def documents(home):
    split = CleanConfig.model_validate({"split": {"test": 0.4}})
    return cleaned(write_corpus(home.root / "corpus", last=90), home.root, split)


@pytest.fixture(scope="module")
def models(home: Home):
    """The trained model, and a smaller form of it whose BOS comes twice."""
    adapted = write_trained(home.root / "adapted")
    nf4 = write_form("nf4", adapted, home.root / "nf4")
    doubled_bos(nf4)
    return {"adapted": adapted, "nf4": nf4}


class Tonight:
    """A run with models of which all that decides is known."""

    def __init__(
        self, home: Home, name: str, models: dict[str, Path], documents, run_id: str, tracking: Tracking
    ):
        self.run = Untracked(home, tracking, run_id)
        asked = ParityConfig(models="chosen", prompts=PROMPTS, max_new_tokens=6)
        sections = {
            "evaluate": CONFIG.model_dump(),
            "parity": asked.model_dump(),
            "registration": {"name": name, "max_quality_loss": 1.0},
        }
        self.config = PipelineConfig.model_validate(sections)
        self.documents = documents
        self.models = {label: external(label, path) for label, path in models.items()}
        self.evaluations = {
            label: self.run.stage(evaluate, self.config.evaluate, model=model, documents=documents)
            for label, model in self.models.items()
        }


@pytest.fixture
def tonight(home, documents):
    with ExitStack() as stack:

        def start(name: str, models: dict[str, Path]) -> Tonight:
            tracking = Tracking(home)
            run_id = stack.enter_context(tracking.run("tonight", {"leanpipe.flow_run": name}, {}))
            return Tonight(home, name, models, documents, run_id, tracking)

        yield start


def test_the_next_best_is_taken_where_the_smallest_does_not_answer_as_trained(tonight, models):
    one = tonight("sound", models)
    summaries = {label: found.summary for label, found in one.evaluations.items()}
    choice = choose_sound(one.run, one.config, one.models, summaries, {})
    assert choice.label == "adapted"  # though nf4 is smaller, and as good
    assert "nf4 does not answer as it was trained: conversation 1 begins with the BOS" in choice.reason
    passed = {label: one.run.results[f"parity-{label}"].summary["passed"] for label in models}
    assert passed == {"nf4": 0, "adapted": 1}


def test_where_none_does_nothing_is_registered(tonight, models, tmp_path, caplog):
    """The trained model itself ends its turns where no engine stops, and its form has another fault."""
    broken = shutil.copytree(models["adapted"], tmp_path / "adapted")
    eos_of_template(broken)
    one = tonight("none", {"adapted": broken, "nf4": models["nf4"]})
    assert promote(one.run, one.config, one.models, one.evaluations, one.documents) is None
    one.run.tracking.wait_until_sent("the test")
    reason = MlflowClient().get_run(one.run.mlflow_run).data.tags["registration.choice"]
    assert reason in caplog.text
    assert "adapted does not answer as it was trained: no answer ends where the chat template ends" in reason
    assert not MlflowClient().search_model_versions("name='none'")


def test_nothing_is_registered_on_a_tasks_figure_that_is_no_number_or_out_of_bounds(tonight, models):
    one = tonight("tasked", {"adapted": models["adapted"]})

    def scored(value: float) -> None:
        figures = {"tasks/capitals/acc": value}
        place = models["adapted"]
        one.run.results["score_tasks-adapted"] = Artifact(
            name="score_tasks", path=place, digest="d", summary=figures
        )

    scored(math.nan)
    with pytest.raises(UserError, match="tasks/capitals/acc of adapted is nan"):
        promote(one.run, one.config, one.models, one.evaluations, one.documents)
    scored(0.25)
    policy = one.config.registration.model_copy(update={"bounds": ("tasks/capitals/acc>=0.5",)})
    config = one.config.model_copy(update={"registration": policy})
    assert promote(one.run, config, one.models, one.evaluations, one.documents) is None
    assert not MlflowClient().search_model_versions("name='tasked'")
