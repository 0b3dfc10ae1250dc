"""Bounds and margins of figures by name: what is misspelt is refused before any work, what is no number decides nothing."""

import math

import pytest
from pydantic import ValidationError

from leanpipe.core.errors import UserError
from leanpipe.evaluation.decide.figures import breach, loss, lower_is_better, parse_bound
from leanpipe.evaluation.gate import RegisterConfig, choose
from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.verdict import Outcome, judge
from leanpipe.settings.flows import PipelineConfig
from tests.evaluation.scores import evaluated

CHAMPION = [(600.0 + number, 400) for number in range(30)]
BETTER = [(0.9 * bits + number % 2, bytes) for number, (bits, bytes) in enumerate(CHAMPION)]


def scored(documents: list[tuple[float, int]], **figures: float) -> Evaluated:
    found = evaluated(documents)
    return Evaluated({**found.summary, **figures}, found.scores)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("answers_bits_per_byte", True),
        ("bits_per_byte/wikipedia", True),
        ("first_token_seconds", True),
        ("peak_memory_bytes", True),
        ("boolq/accuracy", False),
        ("decode_tokens_per_second", False),
        ("task_rougeL", False),
        ("acuracy", None),
    ],
)
def test_which_way_is_better(name: str, answer: bool | None):
    assert lower_is_better(name) is answer


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"margins": ("acuracy=0.1",)}, "there is no figure acuracy"),
        ({"margins": ("accuracy",)}, "'accuracy' is no margin"),
        ({"margins": ("accuracy=-1",)}, "is no margin"),
        ({"margins": ("accuracy=nan",)}, "is no margin"),
        ({"bounds": ("accuracy=0.1",)}, "'accuracy=0.1' is no bound"),
        ({"bounds": ("acuracy>=0.1",)}, "there is no figure acuracy"),
        ({"bounds": ("fintune.validation_loss<=3",)}, "no stage is called fintune"),
    ],
)
def test_what_is_misspelt_is_refused_before_any_work(settings: dict, said: str):
    with pytest.raises(ValidationError, match=said):
        PipelineConfig.model_validate({"registration": settings})


def test_a_candidate_out_of_bounds_is_not_registered():
    fast, slow = (
        scored(BETTER, first_token_seconds=seconds, **{"finetune.forgotten_bits_per_byte": 0.02}).summary
        for seconds in (0.1, 0.4)
    )
    policy = RegisterConfig(
        bounds=("first_token_seconds<=0.2", "finetune.forgotten_bits_per_byte <= 0.05"), max_quality_loss=1
    )
    choice = choose({"slow": slow, "fast": fast}, policy)
    assert choice.label == "fast"
    assert (
        "has a first_token_seconds of 0.4, where at most 0.2 is allowed" in choice.assessments["slow"].reason
    )
    tight = choose({"fast": fast}, RegisterConfig(bounds=("finetune.forgotten_bits_per_byte<=0.01",)))
    assert tight.label is None and "forgotten_bits_per_byte of 0.02" in tight.reason


@pytest.mark.parametrize(("value", "said"), [(None, "has no figure"), (math.nan, "of nan, on which nothing")])
def test_a_figure_that_is_none_is_within_no_bounds(value: float | None, said: str):
    assert said in breach({"accuracy": value} if value else {}, [parse_bound("accuracy>=0.1")])


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        ({"accuracy": 0.60}, {"accuracy": 0.61}, Outcome.PROMOTE),
        ({"accuracy": 0.50}, {"accuracy": 0.61}, Outcome.KEEP),
        ({"accuracy": 0.55, "accuracy_error": 0.03}, {"accuracy": 0.60}, Outcome.INCONCLUSIVE),
    ],
)
def test_a_better_one_must_not_lose_more_of_another_figure_than_its_margin(ours, theirs, outcome):
    policy = RegisterConfig(margins=("accuracy=0.05",))
    verdict = judge(scored(BETTER, **ours), scored(CHAMPION, **theirs), policy)
    assert verdict.outcome is outcome, verdict.reason


@pytest.mark.parametrize("champion", [{}, {"accuracy": math.nan}])
def test_a_margin_of_a_figure_that_is_none_is_one_sentence(champion: dict):
    with pytest.raises(UserError, match="accuracy"):
        judge(
            scored(BETTER, accuracy=0.6),
            scored(CHAMPION, **champion),
            RegisterConfig(margins=("accuracy=0.05",)),
        )


def test_a_loss_is_a_share_of_the_other_ones():
    found = loss("first_token_seconds", {"first_token_seconds": 0.3}, {"first_token_seconds": 0.2}, 0.95)
    assert found.low == found.high == pytest.approx(0.5)
    assert loss("accuracy", {"accuracy": 0.1}, {"accuracy": 0.0}, 0.95).high == -math.inf
