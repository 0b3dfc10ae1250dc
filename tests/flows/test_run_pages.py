"""What the pages of Prefect and MLflow say of a run, whatever its models are called. Against servers of `leanpipe up`."""

import getpass
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from leanpipe.corpus.clean import clean
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.settings.overrides import write_override
from tests.flows.mlflow_runs import children, client, files, parents
from tests.flows.servers import Servers, leanpipe, up
from tests.support.tiny_models import tiny_model

pytestmark = pytest.mark.timeout(900)

NAMES = ("a/my@model", "b/my@model", "lr=3,b=2 [draft] {x} $")
LABELS = ("evaluate-my-model", "evaluate-my-model-2", "evaluate-lr-3-b-2-draft-x")


class Evaluated(NamedTuple):
    """A run from the command line that measured three models, and the servers that know of it."""

    servers: Servers
    done: subprocess.CompletedProcess[str]

    @property
    def run(self) -> Any:
        """It, as MLflow has it."""
        return parents(client(self.servers))[0]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluated]:
    folder: Path = tmp_path_factory.mktemp("pages")
    for number, name in enumerate(NAMES):
        tiny_model(folder / name, seed=number)
    chosen = write_override("models", [str(folder / name) for name in NAMES])
    with up(folder / "home") as servers:
        done = leanpipe(servers.home, "run", "evaluate", "--preset", "smoke", "--set", chosen)
        assert done.returncode == 0, done.stderr
        yield Evaluated(servers, done)


def test_models_may_have_any_names(evaluated: Evaluated):
    """Of two that end alike each is measured by itself, and the person reads the names that were typed."""
    shown = "".join(part.strip("│ ") for part in evaluated.done.stdout.splitlines())
    assert all(name in shown for name in NAMES)
    assert set(children(client(evaluated.servers), evaluated.run)) == {"clean", *LABELS}
    names = [label.removeprefix("evaluate-") for label in LABELS]
    measured = [evaluated.run.data.metrics[f"eval/bits_per_byte/{name}"] for name in names]
    assert len(set(measured)) == len(NAMES)


def test_the_log_of_a_run_in_prefect_tells_what_its_stages_did(evaluated: Evaluated):
    run = evaluated.run.data.tags["leanpipe.flow_run"]
    asked = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
    logs = evaluated.servers.api("logs/filter", asked)
    said = [log["message"] for log in logs if log["name"].startswith("leanpipe")]
    for label in LABELS:
        assert f"{label}: begun" in said
        assert [one for one in said if one.startswith(f"{label}: done in") and "bits per byte" in one]
    assert not [message for message in said if "{'" in message]


def test_mlflow_says_who_started_a_run_how_and_what_it_is(evaluated: Evaluated):
    name, tags = evaluated.run.info.run_name, evaluated.run.data.tags
    assert not name.startswith("evaluate") and name.endswith(" (evaluate)")  # the table shows the beginning
    assert tags["mlflow.user"] == getpass.getuser() and tags["mlflow.source.type"] == "LOCAL"
    assert tags["mlflow.source.name"] == "leanpipe run evaluate"
    assert tags["mlflow.note.content"].startswith("Measure models on the held-out part of a corpus.")


def test_mlflow_says_of_every_stage_who_started_it_how_and_what_it_made(evaluated: Evaluated):
    stages = children(client(evaluated.servers), evaluated.run)
    for label, stage in stages.items():
        tags, name = stage.data.tags, label.partition("-")[0]  # type: ignore[attr-defined]
        assert tags["mlflow.user"] == getpass.getuser() and tags["mlflow.source.type"] == "LOCAL"
        assert tags["mlflow.source.name"] == "leanpipe run evaluate"
        does, made, *_ = tags["mlflow.note.content"].split("\n\n")
        assert does == {"clean": clean, "evaluate": evaluate}[name].purpose
        figure = {"clean": "documents kept", "evaluate": "bits per byte"}[name]
        assert made.startswith("Made in ") and figure in made
    assert len(stages) == 1 + len(LABELS)


def test_what_mlflow_shows_first_of_a_run_is_how_good_its_models_are(evaluated: Evaluated):
    """The page that compares runs draws the first figure that it was told."""
    figures = list(evaluated.run.data.metrics)
    assert figures[0] == f"eval/bits_per_byte/{LABELS[-1].removeprefix('evaluate-')}"
    assert not [name for name in figures if "documents_in" in name or "held_out" in name]


def test_the_addresses_that_are_printed_show_the_runs(evaluated: Evaluated):
    """MLflow opens an experiment on a page that has none of them."""
    experiment, home = evaluated.run.info.experiment_id, evaluated.servers.home
    assert f"{evaluated.servers.mlflow}/#/experiments/{experiment}/runs " in (home / "up.out").read_text()
    said = evaluated.done.stdout + evaluated.done.stderr
    assert f"/#/experiments/{experiment}\n" not in said and "View experiment" not in said


@pytest.mark.chaos
def test_a_sweep_shows_every_form_side_by_side_and_which_are_worth_having(evaluated: Evaluated):
    """Each form is made and measured by a run of its own; table and picture are in MLflow and in Prefect."""
    servers = evaluated.servers
    chosen = {"model": str(servers.home.parent / NAMES[0]), "quantize.formats": ["q4_0"], "sweep.embeddings": ["q8_0", "q4_0"]}  # fmt: skip
    sets = [part for name, value in chosen.items() for part in ("--set", write_override(name, value))]
    done = leanpipe(servers.home, "run", "sweep", "--preset", "smoke", *sets)
    assert done.returncode == 0, done.stderr
    mlflow = client(servers)
    run = parents(mlflow)[0]
    forms = ("q4_0-q8_0", "q4_0-q4_0")
    made = {f"{stage}-{form}" for stage in ("quantize", "evaluate") for form in forms}
    assert made <= set(children(mlflow, run))  # the whole model was measured before
    sizes = [run.data.metrics[f"serve/size_bytes/{form}"] for form in ("full", *forms)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    assert {"sweep.md", "pareto.png", "summary.md"} <= set(files(mlflow, run.info.run_id))
    assert "q4_0-q4_0" in run.data.tags["sweep.worth_having"]  # nothing is smaller
    asked = {"artifacts": {"flow_run_id": {"any_": [run.data.tags["leanpipe.flow_run"]]}}}
    shown = {one["key"]: one for one in servers.api("artifacts/filter", asked)}
    assert shown["pareto"]["type"] == "image" and shown["pareto"]["data"].startswith("data:image/png;base64,")
    rows = json.loads(shown["sweep-table"]["data"])
    assert [row["form"] for row in rows] == ["full", *forms]
    assert all(row["worth having"] == (not row["dominated by"]) for row in rows)
