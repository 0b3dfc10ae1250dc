"""How fast each model is beyond its medians: what 95 of 100 are at least as fast as, several requests at once, loading, energy."""

import re
from collections.abc import Mapping

from leanpipe.core import markdown
from leanpipe.core.stage import Summary

_COLUMNS = {
    "decode_p95_tokens_per_second": ("decode tok/s, p95", "{:,.1f}"),
    "prefill_p95_tokens_per_second": ("prefill tok/s, p95", "{:,.0f}"),
    "first_token_p95_seconds": ("first token, s, p95", "{:.3f}"),
    "load_seconds": ("loading, s", "{:.2f}"),
    "joules_per_token": ("J/token", "{:.3f}"),
}
_TOGETHER = re.compile(r"batch_(\d+)_tokens_per_second")


def speed_markdown(rows: Mapping[str, Summary]) -> str:
    """A row for each model; a column that no model has a figure for is left out, and empty text returned if all are."""
    columns = {name: told for name, told in _COLUMNS.items() if any(name in row for row in rows.values())}
    sizes = {int(found[1]) for row in rows.values() for name in row if (found := _TOGETHER.fullmatch(name))}
    columns |= {
        f"batch_{size}_tokens_per_second": (f"{size} at once, tok/s", "{:,.1f}") for size in sorted(sizes)
    }
    if not columns:
        return ""
    table = [
        (label, *(form.format(row[name]) if name in row else "–" for name, (_, form) in columns.items()))
        for label, row in rows.items()
    ]
    header = ("model", *(called for called, _ in columns.values()))
    return f"{_said(sizes)}\n\n{markdown.table(header, table, 'l' + 'r' * len(columns))}"


def _said(sizes: set[int]) -> str:
    together = (
        " Where several requests come at once it is the tokens that all of them write together, reading their short "
        "texts included."
        if sizes
        else ""
    )
    return (
        "The speeds above are medians. p95 is what 95 of 100 are at least as fast as: of few repeats (evaluate.repeats), almost "
        f"the slowest.{together}"
    )
