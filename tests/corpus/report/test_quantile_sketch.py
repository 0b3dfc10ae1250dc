import numpy as np
import pytest

from leanpipe.corpus.report.quantile_sketch import QuantileSketch


def sketch(*batches: list[float]) -> QuantileSketch:
    made = QuantileSketch()
    for batch in batches:
        made.add(np.array(batch, dtype=float))
    return made


def test_quantiles_are_within_half_a_percent():
    figures = np.random.default_rng(0).lognormal(7, 2, 10_000)
    made = QuantileSketch()
    for start in range(0, len(figures), 999):
        made.add(figures[start : start + 999])
    for share in (0, 0.05, 0.5, 0.95, 0.999):
        exact = np.sort(figures)[int(share * (len(figures) - 1))]
        assert made.quantile(share) == pytest.approx(exact, rel=0.0051)
    assert made.quantile(1) == figures.max() and made.count == 10_000
    assert made.mean == pytest.approx(figures.mean())


def test_small_whole_numbers_and_zeros_are_exact():
    made = sketch([0, 0, 7], [30, 100])
    assert [round(made.quantile(share)) for share in (0, 0.25, 0.5, 0.75, 1)] == [0, 0, 7, 30, 100]
    assert made.counts()[made.values().round() == 7].sum() == 1


def test_nothing_and_what_is_no_number():
    assert sketch().quantile(0.5) == 0 and sketch([]).mean == 0
    made = sketch([float("nan"), float("inf"), 5])
    assert made.count == 1 and round(made.quantile(0.5)) == 5


def test_memory_does_not_grow_with_the_number_of_figures():
    made = QuantileSketch()
    for _ in range(50):
        made.add(np.geomspace(1e-6, 1e15, 10_000))
    assert made.count == 500_000 and len(made.counts()) < 5_000
