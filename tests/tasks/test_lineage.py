"""Against a real store and a real MLflow registry: what became of a document, and which models were trained on it."""

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from flows.cli.lineage import nothing_found, print_lineage
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.store import Artifact, Store, external
from tasks.lineage import Lineage, trace
from tasks.run import Run
from tasks.tracking import registry
from tasks.tracking.runs import Tracking
from tests.support.cleaned_corpus import dropped, identity, kept, write_cleaned
from tests.support.published_results import next_partial, publish

ROWS = [
    kept(1, "Bees dance to tell where flowers are."),
    kept(2, "Kept for the end.", "test"),
    kept(3, "Kept for validation.", "validation"),
    dropped(4, "Too short.", "quality.min_words", 2),
    dropped(5, "", "duplicates.near", 0.9, detail=f"of {identity(1)}"),
]
CONFIG = {"quality": {"min_words": 50}, "duplicates": {"threshold": 0.8}}


@dataclass
class World:
    """A home in which a model was trained, registered and lost."""

    home: Home
    corpus: Artifact
    later: Artifact
    """Another result of `clean` with the same first document, of which nothing was made."""

    def ask(self, wanted: str, most: int = 20) -> Lineage:
        return trace(self.home, wanted, most)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    home = Home(tmp_path_factory.mktemp("home"))
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_database}")
    store = Store(home.store)
    write_cleaned(next_partial(store, "clean"), ROWS)
    corpus = publish(store, "clean", {}, CONFIG)
    blocks = publish(store, "tokenize", {"blocks": "1"}, documents=corpus)
    student = publish(store, "distill", {"weights": "1"}, blocks=blocks)
    quantized = publish(store, "quantize", {"nf4/weights": "2"}, model=student)
    publish(store, "evaluate", {"figures": "1"}, model=student, documents=corpus)
    write_cleaned(next_partial(store, "clean"), [kept(1, "Bees dance to tell where flowers are.")])
    later = publish(store, "clean", {}, CONFIG)
    tracking = Tracking(home)
    with tracking.run("run", {"leanpipe.flow_run": "one"}, {}) as run_id:
        run = Run(home, tracking, run_id)
        _register(run, "small", quantized.inside("nf4"))
        _register(run, "lost", _elsewhere(home, "a"))
        _register(run, "kin", _elsewhere(home, "b"), documents=corpus.digest)
    yield World(home, corpus, later)
    patch.undo()


def _elsewhere(home: Home, name: str) -> Artifact:
    """A model that the store knows nothing of."""
    folder = home.root / name
    folder.mkdir()
    (folder / "weights").write_text(name)
    return external(name, folder)


def _register(run: Run, name: str, model: Artifact, documents: str = "") -> None:
    candidate = registry.Candidate("nf4", model, {"bits_per_byte": 1.0}, "# card", "because", documents)
    registry.register.fn(run, name, candidate)


def names(answer: Lineage) -> list[list[str]]:
    """The registered models of each fate."""
    return [[f"{one.name} {one.version} {one.aliases}" for one in fate.models] for fate in answer.fates]


TRAINED = ["small 1 ['challenger']", "kin 1 ['challenger']"]


def test_a_document_that_was_learnt_from(world: World):
    answer = world.ask("bees dance")
    assert answer.found_by == "phrase" and not answer.more
    first, second = answer.fates
    assert (first.corpus, second.corpus) == (world.corpus.key, world.later.key)
    assert [(made.stage, made.how) for made in first.made] == [
        ("tokenize", "prepared from it"),
        ("distill", "trained on it"),
        ("quantize", "trained on it"),
        ("evaluate", "measures a model trained on it"),
    ]
    assert names(answer) == [TRAINED, []]


def test_held_out_documents_trained_nothing(world: World):
    for number, stages in ((2, ["evaluate"]), (3, ["tokenize", "distill"])):
        (fate,) = world.ask(identity(number)).fates
        assert [made.stage for made in fate.made] == stages
        assert fate.models == []


def test_a_dropped_document_says_which_bound_it_broke(world: World):
    (fate,) = world.ask("4.txt").fates
    assert (fate.document["rule"], fate.document["value"], fate.bound) == ("quality.min_words", 2, 50)
    assert (fate.split, fate.made, fate.models) == ("", [], [])


def test_what_was_made_of_a_copy_was_made_of_its_original(world: World):
    answer = world.ask(identity(5))
    (fate,) = answer.fates
    assert (fate.kept_as, fate.split, fate.bound) == (identity(1), "train", 0.8)
    assert names(answer) == [TRAINED]


def test_no_more_than_were_asked_for(world: World):
    answer = world.ask("0" * 8, most=2)
    assert len(answer.fates) == 2 and answer.more


def test_models_of_unknown_origin_are_named(world: World):
    assert [one.name for one in world.ask("bees dance").unknown] == ["lost"]


def test_nothing_found_is_one_sentence(world: World, tmp_path: Path):
    answer = world.ask("wasps sting")
    assert (answer.fates, answer.found_by, answer.corpora) == ([], "", 2)
    assert "'wasps sting' is no document's id, digest, path or phrase in any" in nothing_found(answer)
    assert "no corpus has been cleaned here yet" in nothing_found(trace(Home(tmp_path), "bees", 1))


def test_a_registry_that_does_not_answer_is_named(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"the model registry at http://127\.0\.0\.1:9 does not answer"):
        world.ask("bees dance")


def test_the_answer_survives_the_way_to_a_machine(world: World):
    answer = world.ask("bees dance")
    assert Lineage.model_validate_json(answer.model_dump_json()) == answer


@pytest.mark.parametrize(
    ("wanted", "sentences"),
    [
        (
            "bees dance",
            [
                "found by phrase",
                "kept, in train",
                "trained on train of corpus clean-0: small version 1 (challenger)",
            ],
        ),
        (
            "bees dance",
            [
                "No registered model was trained on train of corpus clean-5.",
                "Nothing is known of lost version 1",
            ],
        ),
        (identity(2), ["kept, in test", "No model was trained on test of corpus clean-0: it is held out."]),
        ("4.txt", ["dropped by quality.min_words: 2, bound 50", "Too short."]),
        (
            identity(5),
            [f"{identity(1)} stayed in its place, in train", "trained on train of corpus clean-0: small"],
        ),
    ],
)
def test_what_a_person_reads(world: World, wanted: str, sentences: list[str]):
    console = Console(width=200, highlight=False, record=True, file=io.StringIO())
    print_lineage(world.ask(wanted), console)
    text = console.export_text()
    assert [sentence for sentence in sentences if sentence not in text] == []
