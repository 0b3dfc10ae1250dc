"""Decisions on hand-made figures."""

import math

import pytest

from leanpipe.core.errors import UserError
from leanpipe.evaluation.gate import RegisterConfig, beats, choose

POLICY = RegisterConfig()


def model(bits, size_mb, error=0.02, text="t", weights=None):
    return {
        "bits_per_byte": bits,
        "bits_per_byte_error": error,
        "size_bytes": round(size_mb * 1e6),
        "held_out_digest": text,
        "weights_digest": weights or f"{bits}-{size_mb}",
    }


CANDIDATES = {"adapted": model(1.00, 160), "int8": model(1.01, 100), "nf4": model(1.04, 70)}


def test_the_smallest_within_the_loss_is_chosen():
    choice = choose(CANDIDATES, POLICY)
    assert choice.label == "nf4"
    assert "4.00% more bits than the best (adapted)" in choice.reason


def test_a_candidate_that_loses_too_much_is_passed_over():
    choice = choose(CANDIDATES, RegisterConfig(max_quality_loss=0.03))
    assert choice.label == "int8"
    assert not choice.assessments["nf4"].eligible
    assert "4.00% more bits" in choice.assessments["nf4"].reason


def test_without_preference_for_small_ones_the_best_is_chosen():
    assert choose(CANDIDATES, RegisterConfig(prefer_smaller=False)).label == "adapted"


def test_the_size_limit_counts():
    assert choose(CANDIDATES, RegisterConfig(max_size_mb=120, prefer_smaller=False)).label == "int8"


def test_none_is_chosen_when_none_meets_the_policy():
    choice = choose(CANDIDATES, RegisterConfig(max_size_mb=80, max_quality_loss=0.01))
    assert choice.label is None
    assert all(label in choice.reason for label in CANDIDATES)


def test_of_equal_sizes_the_better_is_chosen():
    assert choose({"b": model(1.02, 70), "a": model(1.03, 70)}, POLICY).label == "b"


def test_full_ties_are_settled_by_name():
    assert choose({"b": model(1.0, 70), "a": model(1.0, 70)}, POLICY).label == "a"


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({}, "no model to choose from"),
        ({"a": model(math.nan, 1)}, "bits_per_byte of a is nan"),
        ({"a": model(1, 1), "b": model(1, 1, text="other")}, "different held-out text"),
        ({"a": model(1, 1), "b": model(1, 0)}, "b was evaluated when weights that are no safetensors"),
    ],
)
def test_what_cannot_be_decided_is_refused(candidates, message):
    with pytest.raises(UserError, match=message):
        choose(candidates, POLICY)


def test_the_first_becomes_champion():
    assert beats(model(1.0, 70), None, POLICY).promote


@pytest.mark.parametrize(
    ("challenger", "promoted"),
    [
        (model(0.99, 100), True),  # better
        (model(1.02, 80), True),  # as good within sqrt(0.02² + 0.02²) = 0.028, and 20% smaller
        (model(1.03, 80), False),  # 0.03 worse is more than the error
        (model(1.00, 95), False),  # as good, but only 5% smaller
        (model(1.00, 100), False),  # neither
        (model(0.90, 100, text="other"), False),  # not comparable
    ],
)
def test_challengers_against_a_champion(challenger, promoted):
    verdict = beats(challenger, model(1.0, 100, weights="champion"), POLICY)
    assert verdict.promote is promoted
    assert verdict.reason


def test_an_improvement_must_be_as_large_as_asked_for():
    policy = RegisterConfig(min_improvement=0.02)
    assert not beats(model(0.985, 100), model(1.0, 100), policy).promote
    assert beats(model(0.975, 100), model(1.0, 100), policy).promote


def test_a_size_saving_of_zero_still_asks_for_a_smaller_model():
    policy = RegisterConfig(min_size_saving=0.0)
    assert not beats(model(1.0, 100, weights="a"), model(1.0, 100, weights="b"), policy).promote


def test_a_champion_whose_weights_were_not_counted_is_not_compared_with():
    """All such evaluations name the same weights, those of no file."""
    with pytest.raises(UserError, match="champion was evaluated when weights that are no safetensors"):
        beats(model(1.0, 50, weights="none"), model(1.5, 0, weights="none"), POLICY)


def test_the_champion_does_not_beat_itself():
    verdict = beats(model(0.9, 50, weights="same"), model(1.0, 100, weights="same"), POLICY)
    assert not verdict.promote
    assert "champion itself" in verdict.reason
