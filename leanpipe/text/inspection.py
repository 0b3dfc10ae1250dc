"""What a dry run of cleaning found, and how a person is shown it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from leanpipe.pictures import DROPPED, NEUTRAL, grid
from leanpipe.text.card import table
from leanpipe.text.rules import is_numeric, shown
from leanpipe.text.sketch import Sketch

_PICTURES = 12  # rules of which the measured figures are drawn


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
    skipped: dict[str, int]
    """Files, or lines of them, that could not be read, by reason."""
    files: int
    """How many the corpora have."""

    @property
    def would_go(self) -> int:
        return self.sampled - self.would_stay

    def share(self, documents: int) -> str:
        """Of the sample."""
        return f"{documents / self.sampled:.1%}" if self.sampled else "–"


COLUMNS = ("rule", "bound", "would go", "of the sample", "first", "only", "5%", "median", "95%")


def rows(found: Inspection) -> Iterator[tuple[str, ...]]:
    """A row of `COLUMNS` for every rule."""
    for one in found.rules:
        quantiles = [shown(float(f"{value:.3g}")) for value in one.quantiles] or ["", "", ""]
        counts = (str(one.documents), found.share(one.documents), str(one.first), str(one.only))
        yield (one.rule, shown(one.bound), *counts, *quantiles)


def summary_sentence(found: Inspection) -> str:
    return (
        f"Of a sample of {found.sampled:,} documents from {found.files:,} files, {found.would_stay:,} would stay "
        f"({found.share(found.would_stay)}) and {found.would_go:,} would go. Nothing was dropped."
    )


def page(found: Inspection) -> str:
    """Markdown."""
    named = ((f"`{row[0]}`", *row[1:]) for row in rows(found))
    parts = [
        f"# What cleaning would do\n\n{summary_sentence(found)}\n",
        f"{table(COLUMNS, named)}\n{_HELP}\n\n![What was measured](measured.png)\n",
        f"## Personal data that would be replaced\n\n{_counted(found.redacted, 'kind')}",
        f"## Languages\n\n{_counted(found.languages, 'language')}",
        f"## What could not be read\n\n{_counted(found.skipped, 'reason')}",
        *map(_examples, filter(lambda one: one.examples, found.rules)),
    ]
    return "\n".join(parts)


_HELP = (
    "*would go*: documents that break the rule; *first*: for which `clean` would name this rule; *only*: that would stay "
    "if it were not for this rule. 5%, median and 95% are of what was measured of all documents that it was measured of. "
    "Duplicates are looked for within the sample alone, among what the other rules leave: in the whole corpus there are "
    "more."
)


def draw_measured(path: Path, found: Inspection, measured: dict[str, Sketch]) -> None:
    """A histogram of what was measured for each rule that has a bound, with the bound; those that drop most first."""
    drawn = [one for one in found.rules if one.quantiles and isinstance(one.bound, int | float)][:_PICTURES]
    if not drawn:
        return
    with grid(path, len(drawn), width=12, height=2.4) as all_axes:
        for axes, one in zip(all_axes, drawn, strict=True):
            sketch = measured[one.rule]
            axes.hist(
                sketch.values(), weights=sketch.counts(), bins=_bins(sketch, float(one.bound)), color=NEUTRAL
            )
            axes.axvline(float(one.bound), color=DROPPED, linestyle="--")
            axes.set_title(f"{one.rule}\nbound {shown(one.bound)}: {one.documents} would go", fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)


def _bins(sketch: Sketch, bound: float) -> Sequence[float]:
    """Thirty, up to twice the bound or to nearly all figures, whichever is more, and one for the rest."""
    top = max(sketch.quantile(0.98), 2 * bound, 1e-3)
    return [top * number / 30 for number in range(31)] + [max(top * 1.03, sketch.largest)]


def _examples(found: RuleFound) -> str:
    parts = [f"## `{found.rule}` would drop {found.documents}\n"]
    for example in found.examples:
        value = f", measured {shown(example.value)}" if is_numeric(found.rule) else ""
        text = "\n".join(f"    {line}" for line in example.text.splitlines()) or "    (nothing)"
        parts.append(f"**{_plain(example.source)}**{value}\n\n{text}\n")
    return "\n".join(parts)


def _counted(counts: dict[str, int], what: str) -> str:
    return (
        table((what, "number"), ((name, f"{count:,}") for name, count in counts.items()))
        if counts
        else "None.\n"
    )


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")
