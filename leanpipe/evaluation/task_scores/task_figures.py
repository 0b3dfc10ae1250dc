"""How certain a task's figure is, and how certainly two models differ in it: items are what was drawn.

A figure that is a mean over items has their values as its units. Any other, such as BLEU, which counts over all items
together, has jackknife pseudo-values of groups of items (Efron and Tibshirani 1993, "An introduction to the bootstrap",
chapter 11): what the figure would gain or lose without each group. In both cases the units' spread is the figure's, and the
difference of two models is that of their units, one by one, so that what makes an item hard for both cancels.

Where each item is right or wrong the interval is Wilson's (1927), and that of a difference Agresti and Min's (2005): they do
not claim certainty where, of few items, all are right or none differ.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
_GROUPS = 50
"""Into so many groups the items fall, at the most, for figures that are no means."""


@dataclass(frozen=True)
class TaskFigure:
    """One metric of a task, for one model."""

    value: float
    low: float
    high: float
    error: float
    """Standard error."""
    units: tuple[float, ...]
    items: int
    higher_is_better: bool = True
    right_or_wrong: bool = False
    """Whether each unit is an item that is right (1) or wrong (0)."""


@dataclass(frozen=True)
class TaskDifference:
    """How much one model's figure is above another's, on the same items."""

    ours: float
    theirs: float
    low: float
    high: float
    items: int
    higher_is_better: bool = True

    @property
    def estimate(self) -> float:
        return self.ours - self.theirs

    @property
    def verdict(self) -> str:
        """Say whether the one is certainly better or worse."""
        if self.low <= 0 <= self.high:
            return "the same" if self.low == self.high == 0 else "cannot be told"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


def figure_of(
    values: Sequence[Any], aggregate: Callable[[Sequence[Any]], float], higher_is_better: bool = True
) -> TaskFigure:
    """Aggregate what was found of each item, of which there are at least two, and say how certain the figure is."""
    value = float(aggregate(values))
    numbers = _numbers(values)
    is_mean = numbers is not None and math.isclose(value, np.mean(numbers), rel_tol=1e-9, abs_tol=1e-12)
    units = numbers if is_mean and numbers is not None else _pseudo_values(values, aggregate, value)
    binary = is_mean and set(map(float, units)) <= {0.0, 1.0}
    error = float(np.std(units, ddof=1) / math.sqrt(len(units)))
    low, high = _wilson(units) if binary else _around(value, error, len(units))
    return TaskFigure(
        value, low, high, error, tuple(map(float, units)), len(values), higher_is_better, binary
    )


def difference_of(ours: TaskFigure, theirs: TaskFigure, confidence: float = CONFIDENCE) -> TaskDifference:
    """Compare two models' figures of one task. Both were asked the same items in the same order."""
    more = np.array(ours.units) - np.array(theirs.units)
    estimate, count = ours.value - theirs.value, len(more)
    if ours.right_or_wrong and theirs.right_or_wrong:
        # Half an item is added to each of the four outcomes of a pair.
        count += 2
        centre = float(more.sum()) / count
        variance = (float(np.abs(more).sum()) + 1) / count - centre**2
        width = _normal(confidence) * math.sqrt(variance / count)
        low, high = centre - width, centre + width
    else:
        low, high = _around(estimate, float(np.std(more, ddof=1) / math.sqrt(count)), count, confidence)
    return TaskDifference(ours.value, theirs.value, low, high, ours.items, ours.higher_is_better)


def _numbers(values: Sequence[Any]) -> "np.ndarray | None":
    try:
        numbers = np.array(values, dtype=float)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.ndim == 1 else None


def _pseudo_values(
    values: Sequence[Any], aggregate: Callable[[Sequence[Any]], float], value: float
) -> "np.ndarray":
    groups = min(len(values), _GROUPS)
    without = [
        float(aggregate([one for place, one in enumerate(values) if place % groups != group]))
        for group in range(groups)
    ]
    return groups * value - (groups - 1) * np.array(without)


def _around(value: float, error: float, units: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    from scipy.special import stdtrit

    width = error * float(stdtrit(units - 1, (1 + confidence) / 2))
    return value - width, value + width


def _wilson(units: "np.ndarray") -> tuple[float, float]:
    count, share, z = len(units), float(np.mean(units)), _normal()
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    width = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - width), min(1.0, centre + width)


def _normal(confidence: float = CONFIDENCE) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + confidence) / 2))
