"""Real models, scored for real, against a real MLflow registry: who has the alias `champion` in the end, and what is kept of why."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from leanpipe.core.home import Home
from leanpipe.core.report import Silent
from leanpipe.core.store import Artifact, external
from leanpipe.corpus.clean import CleanConfig
from leanpipe.corpus.tables import count_documents
from leanpipe.evaluation.evaluate import EvaluateConfig, evaluate
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.task_scores.score_tasks import ScoreTasksConfig, score_tasks
from leanpipe.models.load import load_for_inference, save_model
from leanpipe.processes.run_stage import run_stage
from tasks.contest import Asked, Contest
from tasks.run import Run
from tasks.tracking import champion_history, registry
from tasks.tracking.champion_history import Champion
from tasks.tracking.registry import Registered
from tasks.tracking.runs import Tracking
from tasks.tracking.versions import Version
from tasks.training_text import corpora_of
from tests.corpus.cleaning import cleaned, write_corpus
from tests.support.published_results import next_partial, publish
from tests.support.taught_model import taught
from tests.support.tiny_models import tiny_tokenizer

CONFIG = EvaluateConfig(
    text_bytes=12_000,
    document_bytes=600,
    context=64,
    stride=64,
    prompts=("What is a list?",),
    max_new_tokens=2,
    prefill_tokens=8,
    decode_tokens=2,
    repeats=1,
)
LONGER = CONFIG.model_copy(update={"text_bytes": 13_000})


class Untracked(Run):
    """A run whose stages are computed here and now, as they are, and tracked nowhere."""

    def stage(self, stage, config, *, label=None, **inputs):
        artifact = run_stage(stage, config, inputs, self.store, Silent())
        self.results[label or stage.name] = artifact
        return artifact


@dataclass
class World:
    """A run, a cleaned corpus, and models from bad to good."""

    run: Run
    documents: Artifact
    models: dict[str, Artifact]

    def register(self, name: str, model: str, trained_on: tuple[str, ...] = ()) -> Version:
        candidate = registry.Candidate(
            model, self.models[model], {}, "# card", "chosen", self.documents.digest, trained_on
        )
        return registry.register.fn(self.run, name, candidate)

    def decide(
        self,
        name: str,
        model: str,
        config: EvaluateConfig = CONFIG,
        documents: Artifact | None = None,
        asked: Asked | None = None,
        **policy: Any,
    ) -> Registered:
        """Register the model, and let it meet the champion."""
        version, documents = self.register(name, model), documents or self.documents
        evaluation = self.run.stage(
            evaluate, config, label=model, model=self.models[model], documents=documents
        )
        contest = Contest(self.run, RegisterConfig(name=name, **policy), config, documents, tasks=asked)
        return contest.decide(version, evaluation)

    def champion(self, name: str) -> Champion:
        return champion_history.look(MlflowClient(), name, "a test")

    def evidence(self, name: str, version: str = "") -> list[dict[str, Any]]:
        """The scores that made the champion one, or that this version was judged by against the first."""
        self.run.tracking.wait_until_sent("the test")
        file = f"runs:/{self.run.mlflow_run}/registration/version-{version}-against-1.json"
        path = download_artifacts(file if version else self.champion(name).moves[-1].evidence)
        return json.loads(Path(path).read_text())["verdict"]["scores"]

    def verdicts(self, name: str, version: str) -> list[str]:
        tags = MlflowClient().get_model_version(name, version).tags
        return [value for tag, value in sorted(tags.items()) if tag.startswith("leanpipe.verdict.")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    import torch

    home = Home(tmp_path_factory.mktemp("home"))
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_database}")
    split = CleanConfig.model_validate({"split": {"test": 0.4}})
    documents = cleaned(write_corpus(home.root / "corpus", last=90), home.root, split)
    models = {
        name: external(name, taught(home.root / "models" / name, steps))
        for name, steps in (("bad", 0), ("good", 12), ("better", 25))
    }
    large = home.root / "models" / "large"
    save_model(load_for_inference(models["good"].path), tiny_tokenizer(), large, torch.float32)
    models["large"] = external("large", large)
    tracking = Tracking(home)
    with tracking.run("tonight", {"leanpipe.flow_run": "one"}, {}) as run_id:
        yield World(Untracked(home, tracking, run_id), documents, models)
    patch.undo()


def test_each_move_is_kept_with_what_it_rests_on(world: World):
    first = world.decide("kept", "bad")
    assert first.champion and "no champion yet" in first.reason
    second = world.decide("kept", "good")
    assert second.champion and "it is better by more than" in second.reason
    one, two = world.champion("kept").moves
    assert (one.version, one.before, one.by_hand) == ("1", "", False)
    assert (two.version, two.before, two.best) == ("2", "1", "2")
    assert "the run tonight" in two.by and two.why == second.reason
    scores = world.evidence("kept")
    assert len(scores) == 22
    assert sum(one["challenger"] for one in scores) < sum(one["champion"] for one in scores)


def test_a_rerun_overwrites_nothing(world: World):
    """Neither the champion's own, nor that of the one that it replaced."""
    before = moves_of("kept")
    verdicts = world.verdicts("kept", "2")
    assert world.decide("kept", "good").reason == "This is the champion itself."
    lost = world.decide("kept", "bad")
    assert not lost.champion and "it is not better" in lost.reason
    assert moves_of("kept") == before
    assert world.verdicts("kept", "2")[: len(verdicts)] == verdicts
    assert [verdict.partition(":")[0] for verdict in world.verdicts("kept", "1")] == ["promote", "keep"]


def test_max_documents_are_scored_where_fewer_cannot_tell(world: World):
    """Six documents can settle nothing, and two dozen do; the same two models on more text are one look."""
    few = CONFIG.model_copy(update={"text_bytes": 3_000})
    world.decide("more", "bad", few)
    short = world.decide("more", "better", few)
    assert not short.champion and "more documents like these would settle it" in short.reason
    assert world.decide("more", "better", few, max_documents=40).champion
    assert len(world.evidence("more")) > 10
    tags = MlflowClient().get_registered_model("more").tags
    assert len([tag for tag in tags if tag.startswith("leanpipe.look.")]) == 1


def test_max_documents_are_scored_where_there_are_too_few_to_decide_on(world: World):
    few = CONFIG.model_copy(update={"text_bytes": 3_000})
    world.decide("few", "bad", few)
    assert "are too few to decide on" in world.decide("few", "better", few, min_documents=12).reason
    assert world.decide("few", "better", few, min_documents=12, max_documents=40).champion


def test_the_champion_is_asked_the_tasks_of_which_there_are_margins(world: World, tmp_path: Path):
    rows = [{"text": f"{one} and", "options": ["one more", "zzz qqq"], "answer": 0} for one in range(12)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "choice.yaml"
    asked = "prompt: '{{ text }}'\nchoices: options\nanswer: answer\nfile: items.jsonl\n"
    file.write_text(f"kind: multiple_choice\n{asked}")
    config, tasks = ScoreTasksConfig(), (external("choice", file),)
    scored = world.run.stage(score_tasks, config, label="ours", model=world.models["better"], tasks=tasks)
    for margin in ("peak_memory_bytes=9", "tasks/choice/acc_norm=0.9"):
        name, asks = f"asked-{margin[0]}", margin.startswith("tasks")
        world.decide(name, "bad")
        said = world.decide(name, "better", asked=Asked(config, tasks, scored), margins=(margin,)).reason
        assert (f"its {margin[:-4]} is" in said and "on the same 12" in said) == asks, said
        assert ("score_tasks-champion" in world.run.results) == asks


def test_evaluations_that_hold_nothing_are_one_sentence(world: World, tmp_path: Path):
    world.decide("empty", "bad")
    version = world.register("empty", "good")
    contest = Contest(world.run, RegisterConfig(name="empty"), CONFIG, world.documents)
    for content in ("", "{}", '{"documents": []}', '{"documents": [{"id": "1"}]}'):
        (tmp_path / "evaluation.json").write_text(content)
        ended = contest.decide(version, external("evaluate", tmp_path))
        assert not ended.champion
        assert ended.reason.startswith("The challenger cannot be judged: ") and "\n" not in ended.reason
    assert world.champion("empty").number == "1"


def test_runs_of_two_homes_that_end_together_leave_one_champion(world: World, tmp_path: Path):
    """Their files' locks know nothing of each other; the registry they share is one."""
    world.decide("homes", "bad")
    home = Home(tmp_path / "other")
    other = World(Untracked(home, world.run.tracking, world.run.mlflow_run), world.documents, world.models)
    with ThreadPoolExecutor() as threads:
        ended = [
            threads.submit(one.decide, "homes", model) for one, model in ((world, "good"), (other, "better"))
        ]
    assert ended[1].result().champion
    champion = world.champion("homes")
    assert [move.before for move in champion.moves] == ["", *(move.version for move in champion.moves[:-1])]
    assert MlflowClient().get_model_version("homes", champion.number).tags["leanpipe.label"] == "better"


def moves_of(name: str) -> dict[str, str]:
    tags = MlflowClient().get_registered_model(name).tags
    return {tag: value for tag, value in tags.items() if tag.startswith("leanpipe.champion.")}


def test_what_a_person_took_back_stays_taken_back(world: World):
    for model in ("bad", "good"):
        world.decide("hand", model)
    MlflowClient().set_registered_model_alias("hand", "champion", "1")
    again = world.decide("hand", "good")
    assert not again.champion
    assert "a person took the alias from it" in again.reason
    assert world.champion("hand").number == "1"
    moves = world.champion("hand").moves
    assert [(move.before, move.version, move.by_hand) for move in moves] == [
        ("", "1", False),
        ("1", "2", False),
        ("2", "1", True),
    ]
    assert world.decide("hand", "better").champion  # what nobody took back may win
    assert not world.decide("hand", "good").champion
    MlflowClient().set_registered_model_alias("hand", "champion", "2")  # and what was given back may, too
    assert world.decide("hand", "good").champion


def test_a_champion_that_was_promoted_meanwhile_is_the_one_to_beat(world: World):
    """While `good` waits for the bad champion's scores another run promotes `better`: `good` must not take its place."""
    world.decide("race", "bad")
    model = registry.model_of("race", "1")
    store = world.run.store
    slow = evaluate.key(LONGER, {"model": model, "documents": world.documents})
    with ThreadPoolExecutor() as threads:
        with store.locked(f"evaluate-{slow}"):
            other = threads.submit(world.decide, "race", "good", LONGER)
            wait_for(lambda: waits_for(store.root / ".locks" / f"evaluate-{slow}"))
            assert world.decide("race", "better").champion
        late = other.result()
    assert not late.champion and "it is not better" in late.reason
    champion = world.champion("race")
    assert champion.number == champion.moves[-1].version == "3"
    assert [move.before for move in champion.moves] == ["", "1"]


def waits_for(lock: Path) -> bool:
    """Whether somebody waits for the lock, as the kernel tells it."""
    inode = f":{lock.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def wait_for(happened, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_runs_that_end_together_leave_the_best_and_a_history_without_gaps(world: World):
    models = ("good", "bad", "better")
    with ThreadPoolExecutor() as threads:
        ended = list(threads.map(lambda model: world.decide("together", model), models))
    assert ended[2].champion
    champion = world.champion("together")
    version = MlflowClient().get_model_version("together", champion.number)
    assert version.tags["leanpipe.label"] == "better"
    assert [move.before for move in champion.moves] == ["", *(move.version for move in champion.moves[:-1])]
    assert champion.moves[-1].version == champion.number


def by_hand(world: World, name: str, folder: Path) -> None:
    """What a person does in MLflow's page: a version without any tag, and the alias."""
    client = MlflowClient()
    client.create_registered_model(name)
    client.create_model_version(name, str(folder))
    client.set_registered_model_alias(name, "champion", "1")


def test_a_champion_that_was_registered_by_hand_is_measured(world: World, tmp_path: Path):
    shutil.copytree(world.models["good"].path, tmp_path / "mine" / "model")
    by_hand(world, "theirs", tmp_path / "mine")
    lost = world.decide("theirs", "bad")
    assert not lost.champion and "it is not better" in lost.reason
    assert "What the champion learned from is not known here." in lost.reason
    assert world.decide("theirs", "better").champion
    assert [move.why for move in world.champion("theirs").moves[:1]] == [
        "It was champion when this history began."
    ]


@pytest.mark.parametrize("what", ["no files", "no model"])
def test_a_champion_that_cannot_be_measured_is_one_sentence(world: World, tmp_path: Path, what: str):
    folder = tmp_path / "mine"
    if what != "no files":
        folder.mkdir()
        (folder / "notes.txt").write_text("not here")
    name = f"lost-{what.replace(' ', '-')}"
    by_hand(world, name, folder)
    ended = world.decide(name, "better")
    assert not ended.champion
    assert ended.reason.startswith("The champion, version 1, cannot be measured here (")
    assert "\n" not in ended.reason
    assert world.champion(name).number == "1"
    assert (registry.model_folder(name, "challenger") / "config.json").exists()  # nothing is lost


def test_a_champion_that_was_deleted_is_not_the_absence_of_one(world: World):
    for model in ("bad", "good"):
        world.decide("deleted", model)
    MlflowClient().delete_model_version("deleted", "2")
    ended = world.decide("deleted", "bad")
    assert not ended.champion
    assert "The champion, version 2, was deleted or the alias was taken from it" in ended.reason
    MlflowClient().set_registered_model_alias("deleted", "champion", "1")
    assert world.decide("deleted", "better").champion


def test_a_run_that_is_killed_while_it_moves_the_alias_leaves_a_true_history(world: World):
    """Before the alias has moved, and after: neither is taken for a person's doing."""
    world.decide("killed", "bad")
    world.register("killed", "good")
    begun = champion_history.Move(
        time=champion_history.now(), version="2", before="1", by="r", why="w", best="2", done=False
    )
    client = MlflowClient()
    client.set_registered_model_tag("killed", f"leanpipe.champion.{begun.time}", begun.model_dump_json())
    assert [move.version for move in world.champion("killed").moves] == ["1"]
    client.set_registered_model_alias("killed", "champion", "2")
    assert [(move.version, move.by_hand) for move in world.champion("killed").moves] == [
        ("1", False),
        ("2", False),
    ]


def test_smaller_ones_are_measured_by_the_best_champion_so_far(world: World):
    """A champion that is as good and smaller is not the mark for the next: that stays where it was."""
    world.decide("drift", "large")
    smaller = world.decide("drift", "good")
    assert smaller.champion and "it is at most 1.00% worse" in smaller.reason
    assert [(move.version, move.best) for move in world.champion("drift").moves] == [("1", "1"), ("2", "1")]
    assert not world.decide("drift", "bad").champion
    assert "evaluate-best" in world.run.results
    MlflowClient().delete_model_version("drift", "1")
    assert world.decide("drift", "better").champion
    assert world.champion("drift").best == world.champion("drift").number


def test_text_that_a_model_learned_from_is_no_evidence(world: World, tmp_path: Path):
    """The champion came from a corpus most of which another split puts into the text that all are measured on."""
    store = world.run.store
    few = cleaned(write_corpus(tmp_path / "corpus", last=90), world.run.home.root)
    blocks = publish(store, "tokenize", {"blocks": "1"}, documents=few)
    shutil.copytree(world.models["good"].path, next_partial(store, "distill"), dirs_exist_ok=True)
    student = publish(store, "distill", {}, blocks=blocks)
    world.models["student"] = student
    assert corpora_of(store, [student.digest]) == [few.key]

    many = CleanConfig.model_validate({"split": {"test": 0.4}})
    documents = cleaned(tmp_path / "corpus", tmp_path / "elsewhere", many)
    assert count_documents(documents.path, "test") > 2 * count_documents(few.path, "test")
    world.documents, before = documents, world.documents
    try:
        world.decide("learned", "student")
        ended = world.decide("learned", "better")
    finally:
        world.documents = before
    learned = {*texts_of(few.path, "train").values(), *texts_of(few.path, "validation").values()}
    tested = texts_of(documents.path, "test")
    counted = {one["id"] for one in world.evidence("learned", "2")}
    assert counted
    assert not {id for id in counted if tested[id] in learned}
    left_out = world.run.results["better"].summary["held_out_documents"] - len(counted)
    assert f"Left out of the comparison: {left_out} documents that one of the models" in ended.reason
    assert "What the champion learned from" not in ended.reason


def texts_of(documents: Path, split: str) -> dict[str, str]:
    """The texts of a split by their ids."""
    rows = pandas.concat(map(pandas.read_parquet, sorted((documents / split).iterdir())))
    return dict(zip(rows.id, rows.text, strict=True))
