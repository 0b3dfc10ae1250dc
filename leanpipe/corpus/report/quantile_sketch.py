"""Quantiles of any number of figures in the memory of a few thousand counters."""

import numpy as np

ACCURACY = 0.005
"""Of a quantile, as a share of it."""
_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_SMALLEST = 1e-6  # what is smaller counts as 0


class QuantileSketch:
    """Counts figures ≥ 0 in bins whose width is a fixed share of the figure; quantiles are right to half a percent.

    Masson, Rim and Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
    section 2. The number of bins grows with the logarithm of the largest figure: 5,000 reach 10^15.
    """

    def __init__(self) -> None:
        self._bins: np.ndarray = np.zeros(1, np.int64)  # of them the first counts zeros
        self.total = 0.0
        """Sum of all figures."""
        self.largest = 0.0

    @property
    def count(self) -> int:
        """Count all figures."""
        return int(self._bins.sum())

    @property
    def mean(self) -> float:
        """Return the mean of all figures; 0 if there are none."""
        return self.total / self.count if self.count else 0.0

    def add(self, figures: np.ndarray) -> None:
        """Count every one of `figures` (N,) that is a number."""
        figures = figures[np.isfinite(figures)]
        if not len(figures):
            return
        places = np.ceil(np.log(np.maximum(figures, _SMALLEST) / _SMALLEST) / np.log(_GAMMA)).astype(np.int64)
        counts = np.bincount(np.maximum(places, 0))
        if len(counts) > len(self._bins):
            self._bins = np.pad(self._bins, (0, len(counts) - len(self._bins)))
        self._bins[: len(counts)] += counts
        self.total += float(figures.sum())
        self.largest = max(self.largest, float(figures.max()))

    def quantile(self, share: float) -> float:
        """Return the figure that `share` of all figures do not exceed (0 is the smallest, 1 the largest); 0 if there are none."""
        if share >= 1 or not self.count:
            return self.largest
        rank = int(share * (self.count - 1))
        return float(self.values()[np.searchsorted(np.cumsum(self._bins), rank, side="right")])

    def values(self) -> np.ndarray:
        """Return the figure that each bin stands for."""
        values = _SMALLEST * 2 * _GAMMA ** np.arange(len(self._bins)) / (_GAMMA + 1)
        values[0] = 0
        return values

    def counts(self) -> np.ndarray:
        """Return how many figures fell into each of `values`."""
        return self._bins
