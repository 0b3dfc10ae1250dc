"""Margins are judged on the same documents, conversations and items: what is hard for both models is no doubt about either."""

import dataclasses

import numpy as np
import pytest

from leanpipe.core.errors import UserError
from leanpipe.evaluation.decide.figures import Loss, loss
from leanpipe.evaluation.decide.paired_losses import loss_of
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.task_scores.task_figures import figure_of
from leanpipe.evaluation.task_scores.task_results import TaskResult, summary_of
from leanpipe.evaluation.verdict import Outcome, judge
from leanpipe.settings.flows import PipelineConfig
from tests.evaluation.scores import evaluated

ITEMS, ANSWERS = 400, 16
RANDOM = np.random.default_rng(5)
CHAMPION = [(float(bits), 400) for bits in RANDOM.normal(600, 60, 30)]
BETTER = [(0.9 * bits + number % 2, bytes) for number, (bits, bytes) in enumerate(CHAMPION)]
SAID = [(float(bits), 200) for bits in RANDOM.uniform(50, 350, ANSWERS)]
RIGHT = [float(one) for one in RANDOM.random(ITEMS) < 0.6]
"""The champion's items. A challenger differs in few of them."""


def task(right: list[float], digest: str = "the same items") -> TaskResult:
    return TaskResult("capitals", digest, {"acc": figure_of(right, np.mean)})


def fewer(right: list[float], lost: int, won: int) -> list[float]:
    """The same items, but for some that are wrong now, and some that are right."""
    flipped = list(right)
    for value, count in ((1.0, lost), (0.0, won)):
        for place in [place for place, one in enumerate(right) if one == value][:count]:
            flipped[place] = 1 - value
    return flipped


def model(documents, said=None, tasks: TaskResult | None = None) -> Evaluated:
    found = evaluated(documents)
    summary = dict(found.summary)
    answers = evaluated(said) if said else None
    if answers:
        summary |= {
            f"answer_{name}": answers.summary[name] for name in ("bits_per_byte", "bits_per_byte_error")
        }
    summary |= summary_of([tasks]) if tasks else {}
    return Evaluated(summary, found.scores, answers.scores if answers else {}, (tasks,) if tasks else ())


def verdict(margin: str, ours: Evaluated, theirs: Evaluated):
    return judge(ours, theirs, RegisterConfig(margins=(margin,)))


@pytest.mark.parametrize(
    ("share", "outcome"), [(1.01, Outcome.PROMOTE), (1.05, Outcome.INCONCLUSIVE), (1.1, Outcome.KEEP)]
)
def test_answers_are_compared_conversation_by_conversation(share: float, outcome: Outcome):
    """Their figures' own errors are 13 %: of two such figures nobody could tell anything."""
    ours = [(bits * share * (1 + 0.02 * (-1) ** number), bytes) for number, (bits, bytes) in enumerate(SAID)]
    challenger, champion = model(BETTER, ours), model(CHAMPION, SAID)
    found = verdict("answer_bits_per_byte=0.05", challenger, champion)
    assert found.outcome is outcome and f"on the same {ANSWERS}" in found.reason, found.reason
    unpaired = loss("answer_bits_per_byte", challenger.summary, champion.summary, 0.95)
    assert unpaired.low < 0 < 0.1 < unpaired.high


@pytest.mark.parametrize(
    ("lost", "won", "outcome"),
    [(4, 2, Outcome.PROMOTE), (20, 4, Outcome.INCONCLUSIVE), (80, 2, Outcome.KEEP)],
)
def test_tasks_are_compared_item_by_item(lost: int, won: int, outcome: Outcome):
    challenger = model(BETTER, tasks=task(fewer(RIGHT, lost, won)))
    champion = model(CHAMPION, tasks=task(RIGHT))
    found = verdict("tasks/capitals/acc=0.06", challenger, champion)
    assert found.outcome is outcome and f"on the same {ITEMS}" in found.reason, found.reason
    assert ("more like these would settle it" in found.reason) == (outcome is Outcome.INCONCLUSIVE)
    unpaired = loss("tasks/capitals/acc", challenger.summary, champion.summary, 0.95)
    assert unpaired.high > 0.06


def test_so_many_more_items_settle_it():
    """With as many more of the same kind as are asked for the margin is passed, and with half of them it is not."""
    ours, name = fewer(RIGHT, 12, 4), "tasks/capitals/acc"

    def found(times: int) -> Loss:
        return loss_of(name, *(model(BETTER, tasks=task(one * times)) for one in (ours, RIGHT)), 0.95, ())

    first = found(1)
    middle, width = (first.high + first.low) / 2, (first.high - first.low) / 2
    margin = middle + width / 2  # which takes four times as many
    assert first.more_items(margin) == pytest.approx(3 * ITEMS, rel=0.05)
    assert found(5).high < margin < found(2).high


def test_what_was_not_asked_alike_decides_nothing():
    challenger = model(BETTER, tasks=task(RIGHT))
    other = model(CHAMPION, tasks=task(RIGHT, "other items"))
    with pytest.raises(UserError, match="not both asked the same items of tasks/capitals/acc"):
        verdict("tasks/capitals/acc=0.06", challenger, other)
    nothing = dataclasses.replace(other, tasks=())
    with pytest.raises(UserError, match="not both asked the same items"):
        verdict("tasks/capitals/acc=0.06", challenger, nothing)


def test_a_margin_of_bits_leaves_out_what_may_not_be_decided_on():
    ours = [(bits * (3.0 if number < 5 else 1.0), size) for number, (bits, size) in enumerate(BETTER)]
    documents = [str(number) for number in range(5, len(BETTER))]
    found = loss_of("bits_per_byte", model(ours), model(CHAMPION), 0.95, documents)
    assert found.items == len(documents) and found.high < 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"margins": ("tasks/capitals/acc=0.1",)}, "no tasks are asked"),
        ({"bounds": ("tasks/capitals/acc>=0.1",)}, "no tasks are asked"),
        ({"margins": ("answer_bits_per_byte=0.1",)}, "no answers are scored"),
    ],
)
def test_a_margin_of_what_is_not_measured_is_refused_before_any_work(settings: dict, said: str):
    with pytest.raises(ValueError, match=said):
        PipelineConfig.model_validate({"registration": settings, "evaluate": {"conversations": 0}})
    asked = {"registration": settings, "tasks": ["capitals.yaml"], "evaluate": {"conversations": 4}}
    PipelineConfig.model_validate(asked)
