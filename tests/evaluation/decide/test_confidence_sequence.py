"""The confidence sequence is that of the paper, and holds however often one looks."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from leanpipe.evaluation.decide.confidence_sequence import PRIOR, critical_t, log_e_value


@pytest.mark.parametrize("units", [8, 30, 200])
@pytest.mark.parametrize("level", [0.05, 2.7e-5])
def test_the_e_process_reaches_one_over_the_level_at_the_critical_value(units: int, level: float):
    critical = critical_t(level, units)
    assert log_e_value(critical, units) == pytest.approx(-math.log(level))


def test_the_e_value_is_the_ratio_of_likelihoods_of_the_t_statistic():
    """Of a mean drawn from N(0, PRIOR) to a mean of nought, by integrating SciPy's non-central t."""
    units, t = 12, 3.0

    def under(mean: float) -> float:
        return stats.nct.pdf(t, units - 1, mean * math.sqrt(units)) * stats.norm.pdf(
            mean, scale=math.sqrt(PRIOR)
        )

    drawn, _ = integrate.quad(under, -8, 8, limit=200)
    assert log_e_value(t, units) == pytest.approx(math.log(drawn / stats.t.pdf(t, units - 1)), rel=1e-4)


def test_who_looks_after_every_document_is_wrong_no_more_often_than_it_says():
    """A t interval at the same level, looked at as often, is wrong several times more often than it says."""
    random, level, most = np.random.default_rng(0), 0.05, 300
    values = random.normal(size=(4_000, most))
    ever, ever_t = np.zeros(4_000, bool), np.zeros(4_000, bool)
    for units in range(3, most + 1):
        now = values[:, :units]
        t = now.mean(1) / now.std(1, ddof=1) * math.sqrt(units)
        ever |= np.abs(t) > critical_t(level, units)
        ever_t |= np.abs(t) > stats.t.ppf(1 - level / 2, units - 1)
    assert ever.mean() <= level
    assert ever_t.mean() > 4 * level


def test_too_few_units_can_tell_nothing():
    assert math.isinf(critical_t(2.7e-5, 4))
    assert math.isinf(critical_t(0.05, 1))
    assert math.isinf(critical_t(0.0, 1_000))
