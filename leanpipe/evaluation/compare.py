"""Models side by side: a table, and size against quality as a picture."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core import markdown
from leanpipe.core.plots import label_point, picture
from leanpipe.core.stage import Summary

if TYPE_CHECKING:
    from pandas import DataFrame

_MB = 1_000_000


def comparison(rows: Mapping[str, Summary]) -> "DataFrame":
    """One row per model, by its label, of the figures that `evaluate` returned for it; MB are millions of bytes.

    A column that no model has a figure for is left out.
    """
    from pandas import DataFrame, Index

    table = DataFrame([_row(summary) for summary in rows.values()]).dropna(axis=1, how="all")
    table.index = Index(list(rows), name="model")
    return table


def to_markdown(table: "DataFrame", words: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """Return the table of `comparison` in GitHub's Markdown, each figure with as many digits as mean something.

    `words` are further columns at its end, by their headings: what is said of each model.
    """
    said = words or {}
    rows = (
        (
            label,
            *(formatted(name, row[name]) for name in table.columns),
            *(of[str(label)] for of in said.values()),
        )
        for label, row in table.iterrows()
    )
    header = (str(table.index.name or ""), *table.columns, *said)
    return markdown.table(header, rows, "l" + "r" * len(table.columns) + "l" * len(said))


def formatted(column: str, value: float) -> str:
    """A figure of the table's `column`, with as many digits as mean something."""
    return "–" if math.isnan(value) else _FORMATS[column](value)


def draw_size_against_quality(rows: Mapping[str, Summary], path: Path) -> None:
    """Draw every model by its size on disk and its bits per byte, with error bars; left and low is good."""
    with picture(path, width=7, height=4.5) as axes:
        for label, summary in sorted(rows.items(), key=lambda row: -row[1]["bits_per_byte"]):
            size, bits = summary["size_bytes"] / _MB, summary["bits_per_byte"]
            drawn = axes.errorbar(size, bits, yerr=summary["bits_per_byte_error"], fmt="o", capsize=3)
            label_point(axes, size, bits, label, drawn.lines[0].get_color())
        axes.set(title="Size against quality: left and low is good", xlabel="weights on disk, MB")
        axes.set_ylabel("bits per byte (± standard error)")
        axes.set_xlim(0, 1.2 * max(summary["size_bytes"] / _MB for summary in rows.values()))
        axes.grid(alpha=0.3)


def _row(summary: Summary) -> dict[str, float]:
    return {
        "bits/byte": summary["bits_per_byte"],
        "± error": summary["bits_per_byte_error"],
        "answers, bits/byte": summary.get("answer_bits_per_byte", math.nan),
        "perplexity": summary["perplexity"],
        "parameters, M": summary["parameters"] / 1e6,
        "size, MB": summary["size_bytes"] / _MB,
        "decode tok/s": summary["decode_tokens_per_second"],
        "prefill tok/s": summary["prefill_tokens_per_second"],
        "first token, s": summary["first_token_seconds"],
        "peak memory, MB": summary["peak_memory_bytes"] / _MB,
    }


_FORMATS = {
    "bits/byte": "{:.3f}".format,
    "± error": "{:.3f}".format,
    "answers, bits/byte": "{:.3f}".format,
    "perplexity": "{:,.1f}".format,
    "parameters, M": "{:,.1f}".format,
    "size, MB": "{:,.1f}".format,
    "decode tok/s": "{:,.1f}".format,
    "prefill tok/s": "{:,.0f}".format,
    "first token, s": "{:.3f}".format,
    "peak memory, MB": "{:,.0f}".format,
}
