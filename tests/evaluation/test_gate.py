"""Decisions on hand-made figures."""

import math

import pytest

from leanpipe.core.errors import UserError
from leanpipe.evaluation.gate import RegisterConfig, choose

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


def test_what_does_not_answer_as_trained_is_neither_chosen_nor_measured_against():
    broken = {"nf4": "the BOS comes twice", "adapted": "the chat template is lost"}
    choice = choose(CANDIDATES, RegisterConfig(max_quality_loss=0.001), broken)
    assert choice.label == "int8"  # 1% worse than the adapted model, which is none to compare with
    assert "nf4 does not answer as it was trained: the BOS comes twice" in choice.reason
    assert choose(CANDIDATES, POLICY, dict.fromkeys(CANDIDATES, "broken")).label is None


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
