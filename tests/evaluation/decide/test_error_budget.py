"""However many looks a year has, they spend no more than the budget."""

from datetime import UTC, datetime, timedelta

import pytest

from leanpipe.evaluation.decide.error_budget import YEAR, Look, level_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def spend(hours: float, looks: int, budget: float = 0.01) -> list[Look]:
    taken: list[Look] = []
    for number in range(looks):
        now = START + timedelta(hours=hours * number)
        taken.append(Look(time=now, pair=str(number), level=level_of(taken, str(number), budget, now)))
    return taken


@pytest.mark.parametrize(("hours", "looks"), [(24, 800), (2, 1_500)])
def test_any_year_spends_at_most_the_budget(hours: float, looks: int):
    taken = spend(hours, looks)
    for first in taken[::50]:
        year = [look.level for look in taken if first.time <= look.time < first.time + YEAR]
        assert sum(year) <= 0.01
    assert all(look.level > 0 for look in taken)


def test_a_nightly_look_costs_about_the_same_all_year():
    levels = [look.level for look in spend(24, 800)]
    assert levels[0] == pytest.approx(0.01 / 365)
    assert min(levels) > levels[0] / 3


def test_the_same_pair_keeps_its_level():
    taken = spend(24, 30)
    assert level_of(taken, "3", 0.01, START + timedelta(days=31)) == taken[3].level


def test_a_budget_that_is_spent_leaves_nothing():
    assert level_of([Look(time=START, pair="a", level=0.02)], "b", 0.01, START) == 0
