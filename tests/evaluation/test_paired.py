"""The difference of two models on the same documents, and how many more would settle it."""

import math

import numpy as np
import pytest
from scipy import stats

from leanpipe.core.errors import UserError
from leanpipe.evaluation.paired import Difference, Evaluated, common_documents, paired_difference
from leanpipe.evaluation.perplexity import Score
from tests.evaluation.scores import evaluated

CHAMPION = [(100.0, 100), (240.0, 200), (90.0, 100), (410.0, 400)]
CHALLENGER = [(90.0, 100), (236.0, 200), (84.0, 100), (390.0, 400)]


def difference(confidence: float = 0.95) -> Difference:
    ours, theirs = evaluated(CHALLENGER), evaluated(CHAMPION)
    return paired_difference(ours, theirs, common_documents(ours, theirs), confidence)


def test_the_interval_is_that_of_a_ratio_over_documents():
    """On equal lengths it is the t interval of the mean difference, as SciPy has it."""
    found = difference()
    assert found.estimate == pytest.approx(-40 / 800)
    equal = [(bits, 100) for bits, _ in CHALLENGER], [(bits, 100) for bits, _ in CHAMPION]
    ours, theirs = map(evaluated, equal)
    found = paired_difference(ours, theirs, list(ours.scores), 0.9)
    per_byte = np.array([-10, -4, -6, -20]) / 100
    expected = stats.t.interval(0.9, 3, per_byte.mean(), per_byte.std(ddof=1) / 2)
    assert (found.low, found.high) == pytest.approx(expected)


def test_what_makes_a_document_hard_for_both_makes_nothing_uncertain():
    ours = evaluated([(bits * 0.99, bytes) for bits, bytes in CHAMPION])
    theirs = evaluated(CHAMPION)
    found = paired_difference(ours, theirs, list(theirs.scores), 0.95)
    assert found.high < 0
    assert abs(found.estimate) < theirs.summary["bits_per_byte_error"]


def test_so_many_more_documents_settle_it_and_one_fewer_do_not():
    wide = Difference(ours=0.99, theirs=1.0, error=0.02, confidence=0.95, documents=10)
    assert wide.low < 0 < wide.high
    more = wide.more_documents(0.0)
    assert more is not None

    def high(documents: int) -> float:
        width = stats.t.ppf(0.975, documents - 1) * wide.error * math.sqrt(wide.documents / documents)
        return wide.estimate + width

    assert high(10 + more) < 0 <= high(10 + more - 1)


def test_no_number_of_documents_tells_equal_models_apart():
    assert Difference(1.0, 1.0, 0.02, 0.95, 10).more_documents(0.0) is None


def test_only_what_all_were_scored_on_is_compared():
    ours, theirs = evaluated(CHALLENGER), evaluated(CHAMPION[:3])
    assert common_documents(ours, theirs, without=["1"]) == ["0", "2"]


def test_a_score_that_is_no_number_is_refused():
    broken = Evaluated({}, {"7": Score(math.nan, 1, 1)})
    with pytest.raises(UserError, match="score of document 7 is not finite"):
        common_documents(broken, broken)
