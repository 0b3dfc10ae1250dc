"""What a picture says can be read: no name lies on another name, on a point or beyond the frame, and a color means one thing."""

import itertools
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from leanpipe.compression.quantize_report import write_report
from leanpipe.core import plots
from leanpipe.evaluation import compare

ALIKE = {"student": (163, 1.534), "adapted": (163, 1.551), "bf16": (163.2, 1.55), "merged": (164, 1.549)}
FORMS = {"int8": (110, 1.55), "nf4": (84, 1.59), "Q8_0": (87, 1.552), "Q4_0": (50, 1.6), "Q4_1": (54, 1.58)}
TYPED = {"/home/somebody/models/of/last/week/my@model [draft]": (52, 1.56), "$x^2$": (51, 1.57)}
CORNERS = {"teacher": (269, 1.07), "the largest of all models here": (270, 1.75)}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the pictures that are drawn, in order."""
    found: list[Axes] = []
    whole = plots.grid

    @contextmanager
    def watched(*arguments, **options):
        with whole(*arguments, **options) as axes:
            yield axes
        found.extend(axes)

    monkeypatch.setattr(plots, "grid", watched)
    return found


def boxes(axes: Axes) -> dict[str, Bbox]:
    """The room of each name in a picture, in pixels."""
    renderer = FigureCanvasAgg(axes.figure).get_renderer()  # type: ignore[arg-type]
    axes.figure.draw_without_rendering()
    return {text.get_text(): Text.get_window_extent(text, renderer) for text in axes.texts}


@pytest.mark.parametrize("models", [ALIKE, ALIKE | FORMS, ALIKE | FORMS | TYPED | CORNERS], ids=len)
def test_no_name_of_a_model_covers_another_one_a_point_or_the_frame(
    models: dict[str, tuple[float, float]], tmp_path: Path, drawn: list[Axes]
):
    rows = {
        name: {"size_bytes": size * 1e6, "bits_per_byte": bits, "bits_per_byte_error": 0.09}
        for name, (size, bits) in models.items()
    }
    compare.draw_size_against_quality(rows, tmp_path / "picture.png")
    (axes,) = drawn
    named = boxes(axes)
    assert len(named) == len(models)
    for one, other in itertools.combinations(named, 2):
        assert not named[one].overlaps(named[other]), (one, other)
    frame = axes.get_window_extent()
    points = axes.transData.transform(list(models.values()))
    for name, box in named.items():
        assert frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1), name
        assert not any(box.contains(*point) for point in points), name


def test_the_end_of_a_long_name_is_shown(tmp_path: Path):
    with plots.picture(tmp_path / "picture.png") as axes:
        plots.label_point(axes, 0.5, 0.5, "/models/" + "a" * 80 + "/mine")
    (text,) = axes.texts
    assert text.get_text().endswith("a/mine") and len(text.get_text()) == plots.LONGEST_LABEL


def test_the_numbers_of_bars_stay_clear_of_each_other_and_of_the_frame(tmp_path: Path, drawn: list[Axes]):
    forms = ("int8", "nf4", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0")
    sizes = {"full": 162_842_416} | dict(zip(forms, range(90_000_000, 84_000_000, -1_000_000), strict=True))
    write_report(sizes, [], [], {}, tmp_path)
    named = boxes(drawn[0])
    frame = drawn[0].get_window_extent()
    for one, other in itertools.combinations(named, 2):
        assert not named[one].overlaps(named[other]), (one, other)
    for name, box in named.items():
        assert box.y0 > frame.y0 and box.y1 < frame.y1, name


def test_a_loss_has_the_same_color_in_every_picture(tmp_path: Path, drawn: list[Axes]):
    both = [
        {"step": 1, "loss": 2.0, "validation_loss": 3.0},
        {"step": 2, "loss": 1.0, "validation_loss": 2.0},
    ]
    more = [one | {"kl": 0.5, "cross_entropy": 4.0} for one in both]
    for history in (both, more):
        plots.draw_losses(history, tmp_path / "loss.png")
    few, many = ({line.get_label(): line.get_color() for line in axes.lines} for axes in drawn)
    assert few.items() <= many.items() and len(set(many.values())) == 4
