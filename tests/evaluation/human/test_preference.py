"""How much one model is preferred: against figures worked out by hand, SciPy's sign test, and simulated raters."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, t

from leanpipe.evaluation.human.preference import share_interval, sign_test


def test_the_interval_of_one_vote_an_item_is_bonett_and_prices():
    """12 of 20 for the second model, 3 for the first, 5 ties: their formula, (12 + 1 - 3 - 1) / 22 and so on, by hand."""
    shown = share_interval([1.0] * 12 + [0.0] * 3 + [0.5] * 5)
    more, fewer = 13 / 22, 4 / 22
    error = math.sqrt((more + fewer - (more - fewer) ** 2) / 22)
    reach = t.ppf(0.975, 21) * error
    # A share goes from 0 to 1 where a difference goes from -1 to 1.
    low, high = ((1 + more - fewer + sign * reach) / 2 for sign in (-1, 1))
    assert shown == pytest.approx((14.5 / 20, low, high))


def test_raters_who_all_agree_on_few_items_leave_doubt():
    shown = share_interval([1.0] * 3)
    assert shown.estimate == 1.0 and shown.low < 0.5 and shown.high == 1.0
    assert share_interval([1.0] * 40).low > 0.85


def test_intervals_cover_the_truth_with_items_as_units_and_do_not_with_votes():
    """Five raters who mostly say the same of an item: 2,000 sheets of 60 items."""
    rng = np.random.default_rng(0)
    kinds, chances = np.array([0.0, 0.5, 1.0]), [0.3, 0.2, 0.5]
    by_items = by_votes = 0
    for _ in range(2_000):
        usual = rng.choice(kinds, p=chances, size=(60, 1))
        own = rng.choice(kinds, p=chances, size=(60, 5))
        votes = np.where(rng.random((60, 5)) < 0.8, usual, own)
        shown, narrow = share_interval(list(votes.mean(1))), share_interval(list(votes.flatten()))
        by_items += shown.low <= 0.6 <= shown.high
        by_votes += narrow.low <= 0.6 <= narrow.high
    assert 0.94 <= by_items / 2_000 <= 0.965
    assert by_votes / 2_000 < 0.75


@pytest.mark.parametrize(
    ("above", "below", "ties"), [(9, 1, 4), (5, 5, 0), (0, 0, 3), (0, 6, 1), (31, 17, 2)]
)
def test_the_sign_test_is_scipys(above: int, below: int, ties: int):
    found = sign_test([0.7] * above + [0.0] * below + [0.5] * ties)
    expected = binomtest(above, above + below).pvalue if above + below else 1.0
    assert found == pytest.approx(expected)
