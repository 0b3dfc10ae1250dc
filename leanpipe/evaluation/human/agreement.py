"""How far raters agree beyond chance: Krippendorff's alpha for nominal data, which takes any number of raters and gaps."""

from collections import Counter
from collections.abc import Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[str]]) -> float | None:
    """Alpha of the values that raters gave to each unit: 1 is perfect, 0 is chance, below 0 is worse than that.

    None where it is undefined: no unit has two values, or all values are the same, so that chance agrees as well. Krippendorff
    2011, "Computing Krippendorff's Alpha-Reliability", section C; he takes .8 for reliable, and .667 for the least with
    which to draw tentative conclusions.
    """
    paired = [Counter(values) for values in units if len(values) > 1]
    totals = sum(paired, Counter[str]())
    number = totals.total()
    expected = number * number - sum(count * count for count in totals.values())
    if not expected:
        return None
    observed = sum(_disagreements(values) / (values.total() - 1) for values in paired)
    return 1 - (number - 1) * observed / expected


def agreeing_pairs(units: Iterable[Sequence[str]]) -> float | None:
    """The share of all pairs of votes on one unit that are alike; None if there is no pair."""
    counted = [Counter(values) for values in units]
    pairs = sum(values.total() * (values.total() - 1) for values in counted)
    return 1 - sum(map(_disagreements, counted)) / pairs if pairs else None


def _disagreements(values: Counter[str]) -> int:
    """How many ordered pairs of the values are of two kinds."""
    return values.total() ** 2 - sum(count * count for count in values.values())
