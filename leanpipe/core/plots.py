"""One way to draw a picture: on a figure of its own, for pyplot's figures and backend are global."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 110
KEPT, DROPPED, NEUTRAL = "#2a7f62", "#c8553d", "#5b7db1"
"""Colours that mean the same in every picture, and differ for the colour-blind in lightness too."""
_LOSSES = {"loss": "-", "kl": ":", "cross_entropy": "--", "validation_loss": "o-"}
_LINE_HEIGHT = 0.33  # inches for one bar and its label


@contextmanager
def picture(path: Path, width: float = 8.0, height: float = 4.0) -> Iterator["Axes"]:
    """Axes to draw on, of `width` × `height` inches; what was drawn is written to `path` (PNG) at the end."""
    with grid(path, 1, width, height) as axes:
        yield axes[0]


@contextmanager
def grid(path: Path, count: int, width: float = 8.0, height: float = 4.0) -> Iterator[Sequence["Axes"]]:
    """Several axes to draw on, up to three beside each other, in rows of `height` inches; written to `path` at the end."""
    from matplotlib.figure import Figure

    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in axes[count:]:
        unused.set_axis_off()
    yield list(axes[:count])
    for text in (text for one in axes for text in (one.title, *one.texts)):
        text.set_parse_math(False)  # what is between two dollar signs of somebody's name is no formula
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def draw_bars(
    path: Path, title: str, bars: Sequence[tuple[str, float]], color: str = NEUTRAL, unit: str = "documents"
) -> None:
    """Draw a horizontal bar for each (label, number of `unit`), the first on top, its number beside it."""
    from matplotlib.ticker import MaxNLocator

    labels = [label.replace("$", r"\$") for label, _ in bars] or ["none"]
    values = [value for _, value in bars] or [0.0]
    with picture(path, height=1.2 + _LINE_HEIGHT * len(labels)) as axes:
        axes.bar_label(axes.barh(labels, values, color=color), fmt="{:,.0f}", padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel=unit, title=title)


def draw_losses(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw training and validation loss over steps to `path`; `history` is that of transformers' Trainer."""
    with picture(path, width=7) as axes:
        for name, style in _LOSSES.items():
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=name.replace("_", " "))
        axes.set(xlabel="step", ylabel="nats per token")
        axes.grid(alpha=0.3)
        axes.legend()
