"""Measures of a document, and the faults that they are beyond their bounds."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from leanpipe.core.config import StageConfig
from leanpipe.corpus.document import Fault


class Measure(NamedTuple):
    """One figure of a document, named for the field that bounds it: `min_…` from below, `max_…` from above."""

    field: str
    value: float


def exceeded_bounds(group: str, measures: Iterable[Measure], config: StageConfig) -> Iterator[Fault]:
    """Yield a fault for each of `measures` beyond its bound; a bound itself is allowed. Lazy, as `measures` may be."""
    for field, value in measures:
        bound = getattr(config, field)
        if value < bound if field.startswith("min_") else value > bound:
            yield Fault(f"{group}.{field}", float(value))


def count_repeated(parts: list[str]) -> tuple[int, int]:
    """Count those of `parts` that were there before: (number, characters)."""
    if len(set(parts)) == len(parts):
        return 0, 0
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))
