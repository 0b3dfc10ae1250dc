"""How much one model is preferred to another by people's votes, and how certain that is.

A vote is 1 for the second model, 0 for the first, a half if neither is better. The items (prompts) are what was sampled: all
votes on one item are one unit, its mean, however many raters there were (Miller 2024, "Adding Error Bars to Evals",
https://arxiv.org/abs/2411.00640, section 2.2). So an interval says what these raters would say of other prompts like these,
and nothing of other raters.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A share, and the bounds that it lies between with the confidence asked for."""

    estimate: float
    low: float
    high: float


def share_interval(shares: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of shares from 0 to 1, one for each unit, with its adjusted Wald interval.

    That of the shares themselves is much too narrow where few units agree (none disagrees: no width at all). So one more
    unit of 0 and one of 1 are added, as Bonett and Price 2012 do for a paired comparison with ties ("Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data", Journal of Educational and Behavioral Statistics
    37), which this is where each unit is a single vote, but for Student's t quantile: at ten units the normal one is too small.
    """
    # Of SciPy the quantile alone: its statistics take a second to import.
    from scipy.special import stdtrit

    adjusted = np.array([*shares, 0.0, 1.0])
    critical = float(stdtrit(len(adjusted) - 1, (1 + confidence) / 2))
    width = critical * float(adjusted.std()) / math.sqrt(len(adjusted))
    middle = float(adjusted.mean())
    return Interval(float(np.mean(shares)), max(0.0, middle - width), min(1.0, middle + width))


def sign_test(shares: Sequence[float]) -> float:
    """The chance that units at least this one-sided come about if each is as likely to lie above a half as below.

    The exact two-sided sign test; units at a half say nothing and are left out (Dixon and Mood 1946, "The statistical sign
    test", JASA 41). It holds for a number of votes that was fixed beforehand.
    """
    above, below = sum(share > 0.5 for share in shares), sum(share < 0.5 for share in shares)
    units, fewer = above + below, min(above, below)
    tail = sum(math.comb(units, number) for number in range(fewer + 1))
    return min(1.0, 2 * tail / 2**units)
