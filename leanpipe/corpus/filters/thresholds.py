"""From what was measured to why a document is dropped."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from leanpipe.core.config import StageConfig
from leanpipe.corpus.document import Fault


class Measure(NamedTuple):
    """One figure of a document, named for the field that bounds it: `min_…` from below, `max_…` from above."""

    field: str
    value: float


def exceeded_bounds(group: str, measures: Iterable[Measure], config: StageConfig) -> Iterator[Fault]:
    """Those of `measures` that lie beyond their bounds; a bound itself is allowed. Lazy, as `measures` may be."""
    for field, value in measures:
        bound = getattr(config, field)
        if value < bound if field.startswith("min_") else value > bound:
            yield Fault(f"{group}.{field}", float(value))


def count_repeated(parts: list[str]) -> tuple[int, int]:
    """(count, characters) of those of `parts` that were there before."""
    if len(set(parts)) == len(parts):
        return 0, 0
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))
