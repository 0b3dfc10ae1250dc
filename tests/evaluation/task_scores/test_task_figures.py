"""Intervals by items, differences of pairs, and that nothing is decided on a figure that is no number."""

import io
import math
import random

import numpy as np
import pytest
from rich.console import Console

from flows.cli.compare_runs import print_comparison
from leanpipe.core.errors import UserError
from leanpipe.evaluation.gate import RegisterConfig, choose
from leanpipe.evaluation.perplexity import Score
from leanpipe.evaluation.report.run_difference import run_difference
from leanpipe.evaluation.report.run_report import RunFacts, report_markdown
from leanpipe.evaluation.report.stored_scores import ModelScores, from_json, to_json
from leanpipe.evaluation.task_scores.score_tasks import check_answers
from leanpipe.evaluation.task_scores.task_figures import difference_of, figure_of
from leanpipe.evaluation.task_scores.task_results import TaskResult, summary_of
from tasks.report import ComparedRuns
from tests.evaluation.test_compare import summary
from tests.evaluation.test_gate import CANDIDATES


def mean(values):
    return sum(values) / len(values)


def right(share: float, count: int = 200, seed: int = 0) -> list[float]:
    drawn = random.Random(seed)
    return [float(drawn.random() < share) for _ in range(count)]


def test_the_interval_of_right_and_wrong_is_wilsons():
    from scipy.stats import binomtest

    for count, of in ((0, 20), (7, 20), (20, 20)):
        figure = figure_of([1.0] * count + [0.0] * (of - count), mean)
        known = binomtest(count, of).proportion_ci(0.95, method="wilson")
        assert (figure.low, figure.high) == pytest.approx((known.low, known.high))
    assert figure_of([0.0] * 20, mean).high > 0.1, "of twenty all wrong, something is still possible"


def test_intervals_of_figures_that_are_no_means_hold_what_they_promise():
    """A share over all items together, as BLEU is of n-grams: its true value lies in 95 of 100 intervals, more or less."""
    drawn = np.random.default_rng(0)

    def share(pairs):
        return sum(found for found, _ in pairs) / sum(size for _, size in pairs)

    def pairs(count):
        sizes = drawn.integers(1, 30, count)
        return list(zip(drawn.binomial(sizes, 0.3), sizes, strict=True))

    figures = [figure_of(pairs(120), share) for _ in range(100)]
    assert 90 <= sum(one.low <= 0.3 <= one.high for one in figures) <= 99
    assert {len(one.units) for one in figures} == {50}


def test_pseudo_values_of_a_mean_are_its_items():
    values = [random.Random(1).random() for _ in range(30)]
    as_mean, as_any = (
        figure_of(values, mean),
        figure_of([(one,) for one in values], lambda some: mean([a for (a,) in some])),
    )
    assert as_any.units == pytest.approx(as_mean.units)
    assert (as_any.low, as_any.high) == pytest.approx((as_mean.low, as_mean.high))


def test_a_difference_of_pairs_is_seen_where_two_intervals_overlap():
    theirs = right(0.5)
    ours = [1.0 if number % 12 == 0 else one for number, one in enumerate(theirs)]
    one, other = figure_of(ours, mean), figure_of(theirs, mean)
    difference = difference_of(one, other)
    assert one.low < other.high and difference.low > 0 and difference.verdict == "better"
    assert difference_of(other, one).verdict == "worse"
    nothing = difference_of(other, other)
    assert nothing.low < 0 < nothing.high and nothing.verdict == "cannot be told", (
        "few items cannot rule it out"
    )
    low_is_good = [figure_of([4.0 + n % 3 + more for n in range(30)], mean, False) for more in (0.0, 0.5)]
    assert difference_of(*low_is_good).verdict == "better"


def result(seed: int, share: float, digest: str = "asked") -> TaskResult:
    return TaskResult("capitals", digest, {"acc": figure_of(right(share, seed=seed), mean)})


def scores(task: TaskResult) -> ModelScores:
    documents = {str(number): Score(10.0 + number, 4, 9) for number in range(4)}
    return ModelScores(summary(1.0, 10_000_000), {"bits_per_byte": documents}, {"context": 8}, (task,))


def test_tasks_lie_with_the_run_and_are_compared_item_by_item():
    better, worse = scores(result(0, 0.9)), scores(result(0, 0.3))
    stored = from_json(to_json({"teacher": better, "student": worse}), "run")
    assert stored["teacher"] == better
    found = run_difference({"teacher": better}, {"teacher": worse}).tasks
    assert found["teacher", "capitals", "acc"].verdict == "better"
    others = run_difference({"teacher": better}, {"teacher": scores(result(0, 0.3, "asked otherwise"))}).tasks
    assert not others
    assert not from_json(to_json({"old": better}).replace('"tasks"', '"other"'), "run of old")["old"].tasks


def test_what_compare_prints_has_the_tasks():
    ours, theirs = {"teacher": scores(result(0, 0.9))}, {"teacher": scores(result(0, 0.3))}
    console = Console(width=140, file=io.StringIO())
    print_comparison(ComparedRuns("merry-owl", "proud-lynx", run_difference(ours, theirs)), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Tasks: merry-owl against proud-lynx" in printed
    assert any("capitals: acc" in line and "better" in line for line in printed.splitlines())


def test_the_report_has_the_tasks_and_what_each_step_did_to_them():
    models = {"teacher": scores(result(0, 0.9)), "student": scores(result(0, 0.3))}
    text = report_markdown(RunFacts("run", "", models))
    section = text.partition("## Tasks")[2].partition("\n## ")[0]
    assert "| capitals | acc |" in section and "teacher → student" in section and "worse" in section
    without = {label: ModelScores(one.summary, one.scores, one.windows) for label, one in models.items()}
    assert "## Tasks" not in report_markdown(RunFacts("run", "", without))


def test_a_bound_holds_for_a_task_and_nothing_is_decided_on_a_figure_that_is_none():
    def candidates(value):
        figures = summary_of([result(0, 0.5)]) | {"tasks/capitals/acc": value}
        return {label: one | figures for label, one in CANDIDATES.items()}

    policy = RegisterConfig(bounds=("tasks/capitals/acc>=0.4",))
    assert choose(candidates(0.5), policy).label == "nf4"
    assert choose(candidates(0.3), policy).label is None
    with pytest.raises(UserError, match=r"tasks/capitals/acc of .* is nan"):
        choose(candidates(math.nan), RegisterConfig())


def test_a_probability_that_is_no_number_is_no_answer():
    sample = {"resps": [[(-1.0, True)], [(math.nan, False)]]}
    with pytest.raises(UserError, match="an answer of item 2 of the task capitals a probability of nan"):
        check_answers("capitals", [{"resps": [[(-1.0, True)]]}, sample])
