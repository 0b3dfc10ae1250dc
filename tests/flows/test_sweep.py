"""A sweep makes each combination once, as the pipeline would, and tells which of them are worth having.

As a run: tests/flows/test_run_pages.py.
"""

import pytest

from flows import sweep
from flows.compress import quantize_measured
from flows.sweep import settings_of, sweep_page, task_columns
from leanpipe.compression.calibration import IMPORTANCE_FILE
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, digest_files, external
from leanpipe.corpus.clean import clean
from leanpipe.evaluation.compare import comparison
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.evaluation.pareto import dominated_by, draw_pareto, worth_having
from leanpipe.evaluation.report.stored_scores import ModelScores
from leanpipe.evaluation.task_scores.task_figures import figure_of
from leanpipe.evaluation.task_scores.task_results import TaskResult, side_by_side
from leanpipe.planning.steps import RunInputs, present, steps_of
from leanpipe.processes.run_stage import run_stage
from leanpipe.settings.flows import SweepSettings
from tests.support.cleaned_corpus import kept, write_cleaned
from tests.support.tiny_models import tiny_model, tiny_text


def test_every_combination_that_makes_another_model_is_made_once(tmp_path):
    given = RunInputs(models=(Expected(tiny_model(tmp_path / "model")),))

    def made(**settings):
        return [
            (name, *one.formats, one.embeddings)
            for name, one in settings_of(SweepSettings.model_validate(settings), given)
        ]

    formats = {"formats": ["q8_0", "q4_0", "nf4", "q4_0"]}
    assert made(quantize=formats, sweep={"embeddings": ["q8_0", "q4_0", "q4_0"]}) == [
        ("q8_0", "q8_0", "auto"),
        ("q4_0-q8_0", "q4_0", "q8_0"),
        ("q4_0-q4_0", "q4_0", "q4_0"),
        ("nf4", "nf4", "auto"),
    ]
    assert [name for name, *_ in made(sweep={"embeddings": ["q5_0"]})] == ["q8_0", "q4_0-q5_0"]


class Maker:
    """Runs the stages that make models, as flows do, on documents that are clean already; measures none."""

    def __init__(self, root, documents):
        self.store, self.documents, self.made = Store(root), documents, {}

    def stage(self, stage, config, *, label=None, **inputs):
        if stage is clean:
            return self.documents
        if stage is not evaluate:
            self.made[label] = run_stage(stage, config, present(inputs), self.store, Silent())
        return self.made.get(label)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    rows = [kept(n, text, "train" if n % 3 else "validation") for n, text in enumerate(tiny_text()[:12])]
    documents = external("clean", write_cleaned(folder / "documents", rows))
    return RunInputs(models=(external("model", tiny_model(folder / "model")),)), documents


NEEDED = {"auto_round_int4": "auto_round_kernel"}


@pytest.mark.parametrize("form", ["q4_0", "nf4", "auto_round_int4"])
def test_each_form_is_what_the_pipeline_would_make(form, given, tmp_path):
    """Formats that are calibrated are calibrated on the same text: their files are the same, to the byte."""
    if form in NEEDED:
        pytest.importorskip(NEEDED[form])
    asked = {"formats": [form], "calibration_tokens": 256, "embeddings": "q5_0", "rounding_steps": 1}
    config = SweepSettings.model_validate({"quantize": asked, "sweep": {"embeddings": ["q5_0"]}})
    inputs, documents = given
    run = Maker(tmp_path / "store", documents)
    sweep.stages(run, config, inputs)
    ((_, made),) = run.made.items()
    alone = quantize_measured(
        Maker(tmp_path / "another", documents), config.quantize, inputs.model, documents, "quantize"
    )
    assert digest_files(made.path / form) == digest_files(alone.path / form)
    assert (made.path / form / IMPORTANCE_FILE).exists() is (form == "q4_0")


def test_the_types_by_budget_stand_beside_the_others(given):
    """What their bounds need is measured for them, and does not bound the other forms."""
    asked = {"formats": ["q4_0", "mixed"], "max_mb": 1.0, "min_tokens_per_second": 1.0}
    config = SweepSettings.model_validate({"quantize": asked, "sweep": {"embeddings": ["q8_0", "q5_0"]}})
    inputs = RunInputs((Expected(facts={"bytes": 1}),), given[0].models)
    told = {one.label: one for one in steps_of(sweep.stages, config, inputs, "cpu")}
    assert told["sensitivity"].portable().inputs == {"model": "models.0", "documents": "clean"}
    made = [label for label in told if label.startswith("quantize-")]
    assert made == ["quantize-q4_0-q8_0", "quantize-q4_0-q5_0", "quantize-mixed"]
    assert all(told[label].portable().inputs["documents"] == "clean" for label in made)
    assert {"sensitivity", "speeds"} <= set(told["quantize-mixed"].inputs)
    assert [bool(told[label].config.max_mb) for label in made] == [False, False, True]


def summary(size: float, speed: float, bits: float) -> dict[str, float]:
    others = dict.fromkeys(("perplexity", "parameters", "prefill_tokens_per_second"), 1.0)
    return {
        **others,
        "first_token_seconds": 0.1,
        "peak_memory_bytes": size,
        "size_bytes": size,
        "decode_tokens_per_second": speed,
        "bits_per_byte": bits,
        "bits_per_byte_error": 0.1,
    }


def test_what_another_beats_in_all_three_is_not_worth_having(tmp_path):
    rows = {
        "full": summary(100, 10, 1.00),
        "small": summary(25, 40, 1.05),
        "slow": summary(30, 30, 1.06),
        "slower, better": summary(30, 30, 1.04),
        "its equal": summary(30, 30, 1.04),
    }
    assert worth_having(rows) == ["full", "small", "slower, better", "its equal"]
    assert [label for label, by in dominated_by(rows).items() if by] == ["slow"]
    assert dominated_by(rows)["slow"] == "slower, better"  # of those that beat it the one of fewest bits
    by_size = dominated_by({**rows, "fast": summary(110, 90, 1.00)}, speed=False)
    assert by_size["fast"] == "full" and by_size["small"] == ""
    draw_pareto(rows, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 5_000


def test_the_table_has_what_each_form_scored_on_tasks_as_the_report_has_it():
    rows = {"full": summary(100, 10, 1.00), "small": summary(25, 40, 1.05), "unasked": summary(30, 30, 1.2)}
    right = {"full": [1.0] * 15 + [0.0] * 5, "small": [1.0] * 12 + [0.0] * 8}
    scores = {
        label: ModelScores(
            row,
            tasks=(TaskResult("capitals", "d", {"acc": figure_of(right[label], mean)}),)
            if label in right
            else (),
        )
        for label, row in rows.items()
    }
    columns = task_columns(scores)
    assert list(columns) == ["capitals: acc"] and columns["capitals: acc"]["unasked"] == "–"
    lines = sweep_page(rows, columns).splitlines()
    assert lines[4].endswith("| capitals: acc | dominated by |")
    reported = side_by_side({label: one.tasks for label, one in scores.items() if one.tasks})
    for label in right:
        shown = columns["capitals: acc"][label]
        assert (
            f" {shown} |" in next(line for line in lines if line.startswith(f"| {label} "))
            and shown in reported
        )
    assert len(comparison(rows).columns) + 3 == lines[4].count("|") - 1


def mean(values) -> float:
    return sum(values) / len(values)
