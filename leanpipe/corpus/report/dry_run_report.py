"""What a dry run of cleaning found, and how a person is shown it."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from leanpipe.core import markdown
from leanpipe.core.plots import DROPPED, NEUTRAL, grid
from leanpipe.corpus.report.quantile_sketch import ACCURACY, QuantileSketch
from leanpipe.corpus.rule_names import format_rounded, format_value, is_numeric_rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INSPECTION = "inspection.json"
"""The file that stage `inspect` writes."""
_PICTURES = 9  # rules of which the measured figures are drawn
_BARS = 80  # at most
_LARGE = 20  # bounds from here on are drawn on a logarithmic scale


class Example(BaseModel):
    """A document that a rule would drop."""

    source: str
    value: float
    text: str
    """Its beginning, without personal data, or the reason."""


class RuleFound(BaseModel):
    """What one rule would do to the sample."""

    rule: str
    bound: Any = None
    documents: int = 0
    """How many break it, whatever other rules they break too."""
    first: int = 0
    """For how many it is the first, and so the one that `clean` would name."""
    only: int = 0
    """How many break it and no other: they would stay without it."""
    quantiles: list[float] = []
    """Of what was measured of every document: 5%, 50%, 95%; nothing if the rule measures no figure."""
    examples: list[Example] = []
    """From the one nearest to the bound to the one farthest from it."""


class Inspection(BaseModel):
    """What a dry run of cleaning found."""

    sampled: int
    would_stay: int
    rules: list[RuleFound]
    """The one that most documents break first."""
    redacted: dict[str, int]
    """Personal data that would be replaced, by kind."""
    languages: dict[str, int]
    counted: dict[str, int] = {}
    """What else cleaning would count: pages rescued, pages of which it was hard to tell what is text."""
    skipped: dict[str, int]
    """Files, or lines of them, that could not be read, by reason."""
    files: int
    """How many the corpora have."""

    @property
    def would_go(self) -> int:
        """Count the documents that would be dropped."""
        return self.sampled - self.would_stay

    def share(self, documents: int) -> str:
        """Write a number of documents as a share of the sample."""
        return f"{documents / self.sampled:.1%}" if self.sampled else "–"


COLUMNS = ("rule", "bound", "would go", "first", "only", "measured: 5% / median / 95%")


def rows(found: Inspection) -> Iterator[tuple[str, ...]]:
    """Yield a row of `COLUMNS` for every rule."""
    for one in found.rules:
        counts = (f"{one.documents:,} ({found.share(one.documents)})", f"{one.first:,}", f"{one.only:,}")
        yield (one.rule, format_value(one.bound), *counts, " / ".join(map(format_rounded, one.quantiles)))


def summary_sentence(found: Inspection) -> str:
    """Say in a sentence how much of the sample would stay."""
    return (
        f"Of a sample of {found.sampled:,} documents from {found.files:,} files, {found.would_stay:,} would stay "
        f"({found.share(found.would_stay)}) and {found.would_go:,} would go. Nothing was dropped."
    )


def page(found: Inspection) -> str:
    """Write the whole finding as a page in Markdown."""
    named = ((f"`{row[0]}`", *row[1:]) for row in rows(found))
    parts = [
        f"# What cleaning would do\n\n{summary_sentence(found)}\n",
        f"{markdown.table(COLUMNS, named)}\n{_HELP}\n\n![What was measured](measured.png)\n",
        f"## Personal data that would be replaced\n\n{_counted(found.redacted, 'kind')}",
        f"## Languages\n\n{_counted(found.languages, 'language')}",
        f"## Pages of which the text was hard to find\n\n{_counted(found.counted, 'what')}",
        f"## What could not be read\n\n{_counted(found.skipped, 'reason')}",
        *map(_examples, filter(lambda one: one.examples, found.rules)),
    ]
    return "\n".join(parts)


_HELP = (
    "*would go*: documents that break the rule; *first*: for which `clean` would name this rule; *only*: that would stay "
    "if it were not for this rule. What was measured is of all documents that it was measured of. "
    "Duplicates, and overlaps with held-out documents, are looked for within the sample alone, among what the other rules "
    "leave: in the whole corpus there are more."
)


def draw_measured(path: Path, found: Inspection, measured: dict[str, QuantileSketch]) -> None:
    """Draw a histogram of what each rule with a bound measured, with the bound; those that drop most first."""
    drawn = [one for one in found.rules if one.quantiles and isinstance(one.bound, int | float)][:_PICTURES]
    if not drawn:
        return
    with grid(path, len(drawn), width=12, height=2.4) as all_axes:
        for axes, one in zip(all_axes, drawn, strict=True):
            _draw_rule(axes, one, measured[one.rule])


def _draw_rule(axes: "Axes", found: RuleFound, sketch: QuantileSketch) -> None:
    """What lies beyond the bound in another colour. The outermost bars hold what lies further out too."""
    limit, edges = float(found.bound), _edges(sketch, float(found.bound))
    values, counts = np.clip(sketch.values(), edges[0], edges[-1]), sketch.counts()
    least = found.rule.rpartition(".")[2].startswith("min_")
    beyond = sketch.values() < limit * (1 - ACCURACY) if least else sketch.values() > limit * (1 + ACCURACY)
    for mine, color in ((~beyond, NEUTRAL), (beyond, DROPPED)):
        bars, _ = np.histogram(values[mine], edges, weights=counts[mine])
        axes.stairs(bars, edges, fill=True, color=color)
    axes.axvline(limit, color="black", linestyle="--", linewidth=1)
    axes.set_title(
        f"{found.rule}\nbound {format_value(found.bound)}: {found.documents:,} would go", fontsize=9
    )
    axes.set_yscale("symlog", linthresh=1)  # what is near the bound is rare
    axes.set_ylim(bottom=0)
    if limit >= _LARGE:
        axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)


def _edges(sketch: QuantileSketch, limit: float) -> np.ndarray:
    """Choose the edges of the bars: of even width around a share or a small number, growing for a large one. The bound ends one."""
    top = max(sketch.quantile(0.98), 1.3 * limit, 1e-3)
    if limit >= _LARGE:
        return np.geomspace(1, max(sketch.largest, top), 41)
    width = limit / 20 if limit else top / 40
    return np.arange(min(_BARS, math.ceil(top / width)) + 1) * width


def _examples(found: RuleFound) -> str:
    parts = [f"## `{found.rule}` would drop {found.documents}\n"]
    for example in found.examples:
        value = f", measured {format_value(example.value)}" if is_numeric_rule(found.rule) else ""
        text = "\n".join(f"    {line}" for line in example.text.splitlines()) or "    (nothing)"
        parts.append(f"**{markdown.plain(example.source)}**{value}\n\n{text}\n")
    return "\n".join(parts)


def _counted(counts: dict[str, int], what: str) -> str:
    return (
        markdown.table((what, "number"), ((name, f"{count:,}") for name, count in counts.items()))
        if counts
        else "None.\n"
    )
