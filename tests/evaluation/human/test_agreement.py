"""Krippendorff's alpha is the one of his own example, and undefined where he leaves it undefined."""

import pytest

from leanpipe.evaluation.human.agreement import agreeing_pairs, krippendorff_alpha

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, gaps.
_PUBLISHED = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def test_alpha_of_the_published_example():
    rows = [line.split() for line in _PUBLISHED.strip().splitlines()]
    units = [[value for value in column if value != "."] for column in zip(*rows, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_raters_by_hand():
    """Three units, a a, a b, b b: of the 15 pairs of all six values 9 differ, of the 3 pairs on one unit 1 does."""
    assert krippendorff_alpha(["aa", "ab", "bb"]) == pytest.approx(1 - (1 / 3) / (9 / 15))
    assert agreeing_pairs(["aa", "ab", "bb"]) == pytest.approx(2 / 3)


def test_agreement_is_perfect_or_unknown():
    assert krippendorff_alpha(["aaa", "bb", "c"]) == 1.0
    assert krippendorff_alpha(["aa", "aa"]) is None
    assert krippendorff_alpha(["a", "b", ""]) is None and agreeing_pairs(["a", "b"]) is None
