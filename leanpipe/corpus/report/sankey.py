"""A picture of what became of the documents of a corpus: ribbons whose height is their number.

Neither library draws it as a file: plotly would add 69 MB and a Chrome that makes PNGs of its pages, and matplotlib's own
`Sankey`, which keeps no distance between small flows, lets 5 pairs of 10 labels overlap where here none do.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from leanpipe.core.plots import DROPPED, KEPT, NEUTRAL, picture
from leanpipe.corpus.report.stats import CorpusStats
from leanpipe.corpus.split import SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAR = 0.04  # width of a bar; the picture is 2 wide, and the documents read are 1 high
_GAP = 0.03  # least distance between bars above each other
_LABEL = 0.075  # least distance between their middles, where their labels are


class _Bar(NamedTuple):
    """Documents with the same fate; `bottom` and `height` are shares of the documents read."""

    label: str
    documents: int
    bottom: float
    height: float
    color: str


def draw_sankey(path: Path, stats: CorpusStats) -> None:
    """Draw documents read → kept or dropped → the splits, and the groups of rules."""
    splits = [(name, stats.splits[name].documents) for name in SPLITS if stats.splits[name].documents]
    groups = stats.groups().most_common()
    whole = max(1, stats.documents)
    (read,) = _stack([("read", stats.documents)], whole, 1.0, [NEUTRAL])
    fates = _stack([("kept", stats.kept), ("dropped", stats.dropped)], whole, 1.0, [KEPT, DROPPED])
    ends = _stack([*splits, *groups], whole, 1.0 + _GAP, [KEPT] * len(splits) + [DROPPED] * len(groups))
    with picture(path, width=9, height=max(4.0, 0.38 * len(ends))) as axes:
        _draw_level(axes, 0.0, read, fates)
        _draw_level(axes, 1.0, fates[0], ends[: len(splits)])
        _draw_level(axes, 1.0, fates[1], ends[len(splits) :])
        for place, bars in ((0.0, [read]), (1.0, fates), (2.0, ends)):
            _draw_bars(axes, place, bars, stats.documents)
        axes.set(title="What became of every document", xlim=(-0.1, 2.75))
        axes.set_axis_off()


def _stack(named: Sequence[tuple[str, int]], whole: int, top: float, colors: Sequence[str]) -> list[_Bar]:
    """The bars from the top down, far enough from each other for their labels."""
    bars: list[_Bar] = []
    middle = float("inf")  # of the bar above
    for (label, documents), color in zip(named, colors, strict=True):
        height = documents / whole
        middle = min(top - height / 2, middle - _LABEL)
        bars.append(_Bar(label, documents, middle - height / 2, height, color))
        top = bars[-1].bottom - _GAP
    return bars


def _draw_level(axes: "Axes", place: float, source: _Bar, targets: Sequence[_Bar]) -> None:
    """A ribbon from the source to every target, in order."""
    steps = np.linspace(0, 1, 60)
    bend = steps**2 * (3 - 2 * steps)  # level at both ends
    top = source.bottom + source.height
    for target in targets:
        upper = top + (target.bottom + target.height - top) * bend
        lower = (top - target.height) + (target.bottom - (top - target.height)) * bend
        across = place + _BAR + steps * (1 - _BAR)
        axes.fill_between(across, lower, upper, color=target.color, alpha=0.35, linewidth=0)
        top -= target.height


def _draw_bars(axes: "Axes", place: float, bars: Sequence[_Bar], whole: int) -> None:
    for bar in bars:
        if bar.documents:
            axes.bar(place + _BAR / 2, bar.height, _BAR, bar.bottom, color=bar.color)
            text = f"{bar.label}  {bar.documents:,} ({bar.documents / whole:.1%})"
            axes.text(place + 1.5 * _BAR, bar.bottom + bar.height / 2, text, va="center")
