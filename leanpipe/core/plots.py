"""One way to draw a picture: on a figure of its own, for pyplot's figures and backend are global."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

DPI = 110
KEPT, DROPPED, NEUTRAL = "#2a7f62", "#c8553d", "#5b7db1"
"""Colours that mean the same in every picture, and differ for the colour-blind in lightness too."""
_LOSSES = {
    "loss": ("-", "C0"),
    "kl": (":", "C1"),
    "cross_entropy": ("--", "C2"),
    "validation_loss": ("o-", "C3"),
}
_LINE_HEIGHT = 0.33  # inches for one bar and its label
LONGEST_LABEL = 32
"""Characters of a name; of a longer one, such as a path, the end is shown, which tells it from others."""
_POINT_LABEL = "label of a point"
_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_DISTANCES = (6, 14, 24, 36, 50, 66, 84, 104)  # points
_JOINED = 14  # points from which on a line leads from the name to what it names
_POINT = 5  # points around the middle of a marker


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
    _place_labels(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def draw_bars(
    path: Path,
    title: str,
    bars: Sequence[tuple[str, float]],
    color: str = NEUTRAL,
    unit: str = "documents",
    written: Sequence[str] = (),
) -> None:
    """Draw a horizontal bar for each (label, number of `unit`), the first on top, and beside it its number or what is `written`."""
    from matplotlib.ticker import MaxNLocator

    labels = [label.replace("$", r"\$") for label, _ in bars] or ["none"]
    values = [value for _, value in bars] or [0.0]
    with picture(path, height=1.2 + _LINE_HEIGHT * len(labels)) as axes:
        axes.bar_label(axes.barh(labels, values, color=color), written or None, fmt="{:,.0f}", padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel=unit, title=title)


def draw_losses(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw training and validation loss over steps to `path`; `history` is that of transformers' Trainer."""
    with picture(path, width=7) as axes:
        for name, (style, color) in _LOSSES.items():
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=color, label=name.replace("_", " "))
        axes.set(title="What was learnt: less is better", xlabel="step", ylabel="nats per token")
        axes.grid(alpha=0.3)
        axes.legend()


def label_point(axes: "Axes", x: float, y: float, name: str, color: str = "black") -> None:
    """Name a point, in its color. Where the name goes is decided when all is drawn, by `_place_labels`."""
    line = {"arrowstyle": "-", "color": "grey", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3}
    text = name if len(name) <= LONGEST_LABEL else f"…{name[1 - LONGEST_LABEL :]}"
    look: dict[str, Any] = {"color": color, "arrowprops": line, "gid": _POINT_LABEL}
    label = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", **look)
    label.set_in_layout(False)  # it stays within the frame


def _place_labels(figure: "Figure") -> None:
    """Put every label of the figure at the first place around its point that is free, near ones first."""
    if not any(_labels(axes) for axes in figure.axes):
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # settles how large the axes are
    for axes in figure.axes:
        taken = list(_drawn(axes, renderer))
        for label in _labels(axes):
            taken.append(_place(label, axes.get_window_extent(renderer), taken, renderer))


def _labels(axes: "Axes") -> "list[Annotation]":
    return [text for text in axes.texts if text.get_gid() == _POINT_LABEL]  # type: ignore[misc]


def _place(label: "Annotation", frame: "Bbox", taken: "list[Bbox]", renderer: "RendererBase") -> "Bbox":
    """Move the label, and return the room that it takes."""
    places: list[tuple[float, int, dict[str, Any], Bbox]] = []
    for distance, (right, up) in product(_DISTANCES, _SIDES):
        place: dict[str, Any] = {
            "position": (right * distance, up * distance),
            "horizontalalignment": {1: "left", 0: "center", -1: "right"}[right],
            "verticalalignment": {1: "bottom", 0: "center", -1: "top"}[up],
        }
        label.set(**place)
        room = text_box(label, renderer)
        covered = _outside(room, frame) + sum(_shared(room, other) for other in taken)
        places.append((covered, len(places), place, room))
        if not covered:
            break
    _, _, place, room = min(places, key=lambda one: one[:2])
    label.set(**place)
    if label.arrow_patch:
        label.arrow_patch.set_visible(max(map(abs, place["position"])) >= _JOINED)
    return room


def text_box(label: "Annotation", renderer: "RendererBase") -> "Bbox":
    """Return the room of the words alone, in pixels."""
    from matplotlib.text import Text

    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)


def _drawn(axes: "Axes", renderer: "RendererBase") -> "Iterator[Bbox]":
    """Markers, and lines that stand or lie, such as error bars."""
    from matplotlib.collections import LineCollection
    from matplotlib.transforms import Bbox

    around = renderer.points_to_pixels(_POINT)
    for line in axes.lines:
        if line.get_marker() not in ("None", None, "", " "):
            for x, y in axes.transData.transform(line.get_xydata()):
                yield Bbox.from_extents(x - around, y - around, x + around, y + around)
    for lines in axes.collections:
        if isinstance(lines, LineCollection):
            for segment in lines.get_segments():
                yield Bbox.from_extents(*_corners(axes.transData.transform(segment)))


def _corners(points: object) -> tuple[float, float, float, float]:
    import numpy as np

    (left, bottom), (right, top) = np.min(points, axis=0) - 2, np.max(points, axis=0) + 2  # type: ignore[call-overload]
    return left, bottom, right, top


def _shared(one: "Bbox", other: "Bbox") -> float:
    """Pixels that both cover."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def _outside(room: "Bbox", frame: "Bbox") -> float:
    """Pixels of the room that lie beyond the frame, which count more than those that cover something."""
    return 10 * (room.width * room.height - _shared(room, frame))
