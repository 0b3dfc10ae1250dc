"""One way to write a table in Markdown: whatever a cell holds, it stays one cell on one line."""

from collections.abc import Iterable, Sequence
from typing import Any

_RULES = {"l": "---", "r": "---:"}


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], align: str = "") -> str:
    """Return a table in GitHub's Markdown, with a line end at its end.

    `align` has a letter for each column, l or r. Without it columns in which every cell is a number are aligned to the
    right.
    """
    lines = [list(map(_cell, row)) for row in rows]
    align = align or "".join(_side([line[column] for line in lines]) for column in range(len(header)))
    rule = [_RULES[side] for side in align]
    return "".join(f"| {' | '.join(line)} |\n" for line in (list(map(_cell, header)), rule, *lines))


def plain(value: Any) -> str:
    """Return what somebody wrote as one line that cannot begin an HTML element."""
    return _one_line(value).replace("<", "&lt;")


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())


def _cell(value: Any) -> str:
    """On one line, and unable to end its cell."""
    return _one_line(value).replace("|", "\\|")


def _side(cells: Sequence[str]) -> str:
    return "r" if cells and all(map(_is_number, cells)) else "l"


def _is_number(cell: str) -> bool:
    return cell.rstrip("%").replace(",", "").replace(".", "").isdigit() or cell in ("", "–")
