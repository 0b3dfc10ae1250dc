"""Who becomes champion: not by chance, not by small steps downwards, and not on text that a model knows."""

import numpy as np
import pytest

from benchmarks.gate_models import identical
from leanpipe.core.errors import UserError
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.verdict import LeftOut, Outcome, first_champion, judge
from tests.evaluation.scores import evaluated, real_pairs
from tests.support.tiny_models import tiny_llama, tiny_text

POLICY = RegisterConfig()
_RANDOM = np.random.default_rng(0)
CHAMPION = [(float(bits), 400) for bits in _RANDOM.normal(600, 60, 30)]


def scaled(share: float, noise: float = 0.005, seed: int = 1) -> list[tuple[float, int]]:
    """The champion's scores times `share`, but for what differs from document to document."""
    random = np.random.default_rng(seed)
    return [(bits * (share + noise * random.normal()), bytes) for bits, bytes in CHAMPION]


def champion(size_mb: float = 100) -> Evaluated:
    return evaluated(CHAMPION, size_mb, weights="champion")


def test_the_first_becomes_champion():
    verdict = first_champion(champion().summary)
    assert verdict.promote and verdict.best


@pytest.mark.parametrize(
    ("challenger", "outcome"),
    [
        (evaluated(scaled(0.99), 100), Outcome.PROMOTE),  # better
        (evaluated(scaled(0.99, noise=0.1), 100), Outcome.INCONCLUSIVE),  # perhaps better
        (evaluated(scaled(1.00), 80), Outcome.PROMOTE),  # as good, and smaller
        (evaluated(scaled(1.005, noise=0.05), 80), Outcome.INCONCLUSIVE),  # perhaps as good
        (evaluated(scaled(1.02), 80), Outcome.KEEP),  # smaller, and worse than the margin allows
        (evaluated(scaled(1.08), 50), Outcome.KEEP),
        (evaluated(scaled(1.02), 100), Outcome.KEEP),
        (evaluated(scaled(1.00), 95), Outcome.INCONCLUSIVE),  # too little smaller to be let through for that
        (evaluated(scaled(0.90), 100, text="other"), Outcome.INCONCLUSIVE),  # not comparable
        (evaluated(scaled(0.90)[:4], 100), Outcome.INCONCLUSIVE),  # on four documents
    ],
)
def test_challengers_against_a_champion(challenger: Evaluated, outcome: Outcome):
    verdict = judge(challenger, champion(), POLICY)
    assert verdict.outcome is outcome, verdict.reason
    assert verdict.reason.startswith("Inconclusive") == (
        outcome is Outcome.INCONCLUSIVE and "other text" not in verdict.reason
    )


def test_an_improvement_must_be_as_large_as_asked_for_and_certainly():
    policy = RegisterConfig(min_improvement=0.02)
    assert not judge(evaluated(scaled(0.99)), champion(), policy).promote
    assert not judge(evaluated(scaled(0.979)), champion(), policy).promote
    assert judge(evaluated(scaled(0.97)), champion(), policy).promote


def test_what_cannot_be_told_says_how_many_documents_would_tell():
    verdict = judge(evaluated(scaled(0.99, noise=0.1)), champion(), POLICY)
    assert f"about {verdict.more_documents:,} more documents like these would settle it" in verdict.reason
    assert len(verdict.scores) == 30


def test_the_champion_does_not_beat_itself():
    verdict = judge(evaluated(scaled(0.9), 50, weights="champion"), champion(), POLICY)
    assert verdict.outcome is Outcome.KEEP
    assert "champion itself" in verdict.reason


def test_a_size_saving_of_zero_still_asks_for_a_smaller_model():
    policy = RegisterConfig(min_size_saving=0.0)
    assert not judge(evaluated(CHAMPION, 100, weights="a"), champion(), policy).promote


def test_a_champion_whose_weights_were_not_counted_is_not_compared_with():
    """All such evaluations name the same weights, those of no file."""
    lost = evaluated(CHAMPION, 0, weights="champion")
    with pytest.raises(UserError, match="champion was evaluated when weights that are no safetensors"):
        judge(champion(), lost, POLICY)


def test_the_same_model_under_another_name_is_never_promoted():
    """Five of the 200 real evaluations of benchmarks/gate_models.py, each on other documents."""
    texts = [text[:300] for text in tiny_text() if len(text) > 200]
    assert identical(tiny_llama(), texts, evaluations=5)["ours"] == 0


@pytest.mark.parametrize("documents", [5, 10, 30])
def test_equal_models_are_rarely_promoted(documents: int):
    """Of 2,000 challengers that are as good as the champion at most 5% win, whichever way the documents' differences lean.

    Scores of real models are drawn anew; what one of them needs more in all is taken from it, so that both are equal. Any gain
    that is certain counts.
    """
    random, policy = np.random.default_rng(documents), RegisterConfig(min_improvement=0)
    ours = np.array([one for one, _ in real_pairs()])
    theirs = np.array([other for _, other in real_pairs()])
    bytes_ = theirs[:, 1]
    more = ours[:, 0] - theirs[:, 0]
    more -= more.sum() / bytes_.sum() * bytes_
    promoted = 0
    for trial in range(2_000):
        drawn = random.integers(0, len(more), documents)
        lean = 1 if trial % 2 else -1
        rival = [(bits, int(size)) for bits, size in zip(theirs[drawn, 0], bytes_[drawn], strict=True)]
        equal = [(bits + lean * extra, size) for (bits, size), extra in zip(rival, more[drawn], strict=True)]
        promoted += judge(evaluated(equal, weights="new"), evaluated(rival, weights="old"), policy).promote
    assert promoted <= 0.05 * 2_000


def test_small_steps_lead_no_further_down_than_one():
    """Each model is a tenth smaller and 0.8% worse than the one before: together they may lose what one may."""
    best = standing = champion()
    promoted = 0
    for step in range(1, 9):
        small = evaluated(scaled(1.008**step, 0.002, seed=step), 100 * 0.89**step)
        verdict = judge(small, standing, POLICY, best=None if standing is best else best)
        assert not verdict.best
        if verdict.promote:
            promoted, standing = promoted + 1, small
    assert promoted == 1
    assert standing.summary["bits_per_byte"] / best.summary["bits_per_byte"] < 1.01


def test_what_is_better_than_the_champion_alone_does_not_lower_the_mark():
    best, standing = champion(), evaluated(scaled(1.009, 0.001), 80)
    better = evaluated(scaled(1.004, 0.001), 80)
    verdict = judge(better, standing, POLICY, best=best)
    assert verdict.promote and not verdict.best
    verdict = judge(evaluated(scaled(0.98, 0.001), 80), standing, POLICY, best=best)
    assert verdict.promote and verdict.best


def test_without_the_best_champion_only_a_better_one_is_promoted():
    lost = "the best champion so far cannot be measured"
    verdict = judge(evaluated(CHAMPION, 50), champion(), POLICY, best_lost=lost)
    assert not verdict.promote and lost in verdict.reason
    verdict = judge(evaluated(scaled(0.98), 50), champion(), POLICY, best_lost=lost)
    assert verdict.promote and verdict.best


def test_nothing_is_decided_on_text_that_a_model_learned_from():
    """The challenger is better on the documents that it knows, and on no others."""
    known = frozenset(map(str, range(20)))
    learned = [(bits * (0.5 if i < 20 else 1.02), size) for i, (bits, size) in enumerate(scaled(1, 0.002))]
    assert judge(evaluated(learned), champion(), POLICY).promote
    verdict = judge(evaluated(learned), champion(), POLICY, left_out=LeftOut(known, ("Remark.",)))
    assert verdict.outcome is Outcome.KEEP
    assert "same 10 documents" in verdict.reason
    assert (
        "Left out of the comparison: 20 documents that one of the models learned from. Remark."
        in verdict.reason
    )
    assert not known & {one.id for one in verdict.scores}


def test_too_few_documents_that_no_model_learned_from_decide_nothing():
    left_out = LeftOut(frozenset(map(str, range(27))))
    verdict = judge(evaluated(scaled(0.5)), champion(), POLICY, left_out=left_out)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "3 documents are too few" in verdict.reason and "27 documents that one" in verdict.reason
    # So many more are asked for, and `registration.max_documents` may have them scored.
    assert verdict.more_documents == POLICY.min_documents - 3 and len(verdict.scores) == 3
