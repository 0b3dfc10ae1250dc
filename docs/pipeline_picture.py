"""Draws the pipeline as an SVG, once for light pages and once for dark ones."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT = 1240, 520
_LEFT, _STEP, _BOX = 32, 200, 176
_ROWS = (32, 142, 294, 412)
_TALL = 78
_SMALL, _LARGE = 14.5, 17.5


class Colors(NamedTuple):
    """The colors of one theme."""

    page: str
    border: str
    text: str
    faint: str
    given: str
    stage: str
    stage_edge: str
    end: str
    end_edge: str


THEMES = {
    "light": Colors(
        "#ffffff", "#d0d7de", "#1f2328", "#59636e", "#f6f8fa", "#ddf0e8", "#2a7f62", "#e4ebf7", "#5b7db1"
    ),
    "dark": Colors(
        "#0d1117", "#30363d", "#e6edf3", "#9198a1", "#161b22", "#12352a", "#4cae8a", "#1a2a44", "#7d9fd4"
    ),
}


def draw(folder: Path) -> None:
    """Write `pipeline-light.svg` and `pipeline-dark.svg`."""
    for name, colors in THEMES.items():
        (folder / f"pipeline-{name}.svg").write_text(svg(colors))


def svg(colors: Colors) -> str:
    """Draw the pipeline in these colors; the text of an SVG file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
    )
    title = "<title>The pipeline: from text, a teacher and instructions to a served model</title>"
    arrow = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{colors.faint}"/></marker></defs>'
    )
    page = (
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="14" fill="{colors.page}" '
        f'stroke="{colors.border}"/>'
    )
    parts = [*_given(colors), *_stages(colors), *_end(colors), *_around(colors)]
    return "\n".join([head, title, arrow, page, *parts, "</svg>"]) + "\n"


def _given(colors: Colors) -> Iterator[str]:
    """What a person brings, above the stages that read it."""
    for column, title, line in (
        (0, "your text", "folders, files, URLs"),
        (2, "a teacher", "folder, hub id or .gguf"),
        (4, "instructions", ".json or .jsonl"),
    ):
        yield _box(colors, column, 0, title, (line,), colors.given, colors.border, height=58, dashed=True)
        yield _arrow(colors, (_middle(column), _ROWS[0] + 58), (_middle(column), _ROWS[1]))


def _stages(colors: Colors) -> Iterator[str]:
    names = (
        ("clean", "extract, filter, redact,", "deduplicate, split"),
        ("tokenize", "cut the vocabulary,", "pack into blocks"),
        ("cache_teacher", "ask the teacher once,", "keep what it predicts"),
        ("distill", "a smaller student", "learns from that"),
        ("finetune", "LoRA on instructions,", "merged"),
        ("quantize", "8 bits; 4, after a", "training on their grid"),
    )
    for column, (name, *lines) in enumerate(names):
        yield _box(colors, column, 1, name, lines, colors.stage, colors.stage_edge)
        if column:
            y = _ROWS[1] + _TALL / 2
            yield _arrow(colors, (_x(column - 1) + _BOX, y), (_x(column), y))


def _end(colors: Colors) -> Iterator[str]:
    """What becomes of the models."""
    wide = _x(5) + _BOX - _x(2)
    measured = "every model on the same held-out text: quality, size, speed, memory"
    yield _box(colors, 2, 2, "evaluate", (measured,), colors.stage, colors.stage_edge, width=wide, height=62)
    for column, name in ((3, "student"), (4, "adapted"), (5, "8 and 4 bits")):
        yield _arrow(colors, (_middle(column), _ROWS[1] + _TALL), (_middle(column), _ROWS[2]))
        yield _text(
            _middle(column) + 10, (_ROWS[1] + _TALL + _ROWS[2]) / 2 + 4, name, colors.faint, _SMALL, "start"
        )
    # The teacher is measured too: past the stage that asks it.
    x, top = _x(2) - 13, _ROWS[0] + 29
    yield _path(colors, f"M{_x(2)} {top} H{x} V{_ROWS[2] + 29} H{_x(2)}")
    yield _text(x - 8, (_ROWS[1] + _TALL + _ROWS[2]) / 2 + 4, "teacher", colors.faint, _SMALL, "end")
    y = _ROWS[2] + 45
    yield _path(colors, f"M{_middle(0)} {_ROWS[1] + _TALL} V{y} H{_x(2)}")
    yield _text(_middle(0) + 12, y - 8, "held-out text", colors.faint, _SMALL, "start")
    for column, name, lines in (
        (4, "register", ("the best, as champion", "if it beats the last")),
        (5, "serve", ("an OpenAI-style API",)),
    ):
        yield _box(colors, column, 3, name, lines, colors.end, colors.end_edge)
    yield _arrow(colors, (_middle(4), _ROWS[2] + 62), (_middle(4), _ROWS[3]))
    across = _ROWS[3] + _TALL / 2
    yield _arrow(colors, (_x(4) + _BOX, across), (_x(5), across))


def _around(colors: Colors) -> Iterator[str]:
    """What holds for every stage."""
    for number, (who, what) in enumerate(
        (
            ("Prefect", "starts, schedules, retries and shows every stage"),
            ("The store", "names a result by its content: nothing is computed twice"),
            ("MLflow", "keeps parameters, figures, pictures and models"),
        )
    ):
        y = _ROWS[3] + 18 + 26 * number
        yield _text(_x(0), y, who, colors.text, 16, "start", bold=True)
        yield _text(_x(0) + 100, y, what, colors.faint, 16, "start")


def _x(column: int) -> int:
    return _LEFT + column * _STEP


def _middle(column: int) -> float:
    return _x(column) + _BOX / 2


def _box(
    colors: Colors,
    column: int,
    row: int,
    title: str,
    lines: Sequence[str],
    fill: str,
    edge: str,
    width: int = _BOX,
    height: int = _TALL,
    dashed: bool = False,
) -> str:
    x, y = _x(column), _ROWS[row]
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    said = [line for line in lines if line]
    first = y + height / 2 - 9.5 * len(said) + 6
    middle = x + width / 2
    parts = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="9" fill="{fill}" stroke="{edge}"{dashes}/>',
        _text(middle, first, title, colors.text, _LARGE, bold=True),
    ]
    parts += [_text(middle, first + 19 * (n + 1), line, colors.faint, _SMALL) for n, line in enumerate(said)]
    return "\n".join(parts)


def _text(
    x: float, y: float, text: str, color: str, size: float, anchor: str = "middle", bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" text-anchor="{anchor}"{weight}>{text}</text>'


def _arrow(colors: Colors, start: tuple[float, float], end: tuple[float, float]) -> str:
    return _path(colors, f"M{start[0]:g} {start[1]:g} L{end[0]:g} {end[1]:g}")


def _path(colors: Colors, line: str) -> str:
    return f'<path d="{line}" fill="none" stroke="{colors.faint}" stroke-width="1.5" marker-end="url(#tip)"/>'
