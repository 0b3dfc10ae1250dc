"""Models by size, speed and quality at once: which are worth having, and a picture of them."""

from collections.abc import Mapping
from pathlib import Path

from leanpipe.core.plots import DROPPED, KEPT, grid, label_point
from leanpipe.core.stage import Summary

_MB = 1_000_000


def worth_having(rows: Mapping[str, Summary]) -> list[str]:
    """Name the models that no other beats or equals in size, speed and bits per byte together (the Pareto front)."""
    return [label for label, better in dominated_by(rows).items() if not better]


def dominated_by(rows: Mapping[str, Summary], speed: bool = True) -> dict[str, str]:
    """Name, for each model, the one of fewest bits that is as good or better in all of size, speed and bits, and better in one.

    It is empty for a model that none dominates. Without `speed` only size and bits count, for figures that were not measured on a
    quiet machine.
    """
    places = {label: _place(summary, speed) for label, summary in rows.items()}
    found = {}
    for label, place in places.items():
        better = [
            other
            for other, theirs in places.items()
            if theirs != place and all(one <= two for one, two in zip(theirs, place, strict=True))
        ]
        found[label] = min(better, key=lambda other: places[other][0], default="")
    return found


def draw_pareto(rows: Mapping[str, Summary], path: Path) -> None:
    """Draw bits per byte by size and by speed; models that another one beats in all three are in another color."""
    front = worth_having(rows)
    with grid(path, len(_ACROSS), width=11, height=4.5) as both:
        for axes, (name, of) in zip(both, _ACROSS.items(), strict=True):
            for label, summary in rows.items():
                color = KEPT if label in front else DROPPED
                across, bits = of(summary), summary["bits_per_byte"]
                axes.errorbar(
                    across, bits, yerr=summary["bits_per_byte_error"], fmt="o", capsize=3, color=color
                )
                label_point(axes, across, bits, label, color)
            axes.set(xlabel=name, ylabel="bits per byte (± standard error)")
            axes.set_xlim(0, 1.2 * max(of(summary) for summary in rows.values()))
            axes.grid(alpha=0.3)


_ACROSS = {
    "weights on disk, MB: left and low is good": lambda summary: summary["size_bytes"] / _MB,
    "tokens written per second: right and low is good": lambda summary: summary["decode_tokens_per_second"],
}


def _place(summary: Summary, speed: bool) -> tuple[float, ...]:
    """Less is better of each."""
    place = (summary["bits_per_byte"], summary["size_bytes"])
    return (*place, -summary["decode_tokens_per_second"]) if speed else place
