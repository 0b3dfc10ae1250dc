"""The heuristics by which documents are dropped, one file each: Gopher's quality and repetition, C4's, FineWeb's.

A new one: a config class with `enabled`, a function `(View, config) -> Fault | None` in a file of its own, and a line in
`first_fault` and in `all_faults`.
"""

from typing import NamedTuple

from leanpipe.text.document import Fault
from leanpipe.text.filters.c4 import C4Config, c4_clean, c4_faults
from leanpipe.text.filters.fineweb import FineWebConfig, fineweb_fault, fineweb_measures
from leanpipe.text.filters.measure import faults
from leanpipe.text.filters.quality import QualityConfig, quality_fault, quality_measures, too_long
from leanpipe.text.filters.repetition import RepetitionConfig, repetition_fault, repetition_measures
from leanpipe.text.filters.view import View

__all__ = [
    "C4Config",
    "Filters",
    "FineWebConfig",
    "QualityConfig",
    "RepetitionConfig",
    "View",
    "all_faults",
    "c4_clean",
    "filter_text",
    "fineweb_fault",
    "quality_fault",
    "repetition_fault",
]


class Filters(NamedTuple):
    """The settings of all filters, in the order in which they are applied."""

    quality: QualityConfig = QualityConfig()
    repetition: RepetitionConfig = RepetitionConfig()
    c4: C4Config = C4Config()
    fineweb: FineWebConfig = FineWebConfig()


def filter_text(text: str, language: str, filters: Filters) -> tuple[str, Fault | None]:
    """(what the filters leave of `text`, the first bound that it breaks). A dropped text is returned as it was.

    C4 takes out lines, and FineWeb sees what is left, as in FineWeb's own pipeline (Penedo et al. 2024, section 3.7).
    """
    view = View(text, language)
    fault = quality_fault(view, filters.quality) or repetition_fault(view, filters.repetition)
    if fault:
        return text, fault
    cleaned, fault = c4_clean(view, filters.c4)
    if not fault:
        fault = fineweb_fault(view if cleaned == text else View(cleaned, language), filters.fineweb)
    return (text, fault) if fault else (cleaned, None)


def all_faults(text: str, language: str, filters: Filters) -> list[Fault]:
    """Every bound that `text` breaks, with what was measured: for a dry run. Slower than `filter_text`.

    Its first is the one that `filter_text` names. Of a document with far too many words, that is all that is said.
    """
    view, found = View(text, language), list[Fault]()
    if too_long_fault := too_long(view, filters.quality):
        return [too_long_fault]
    if filters.quality.enabled:
        found += faults("quality", quality_measures(view, filters.quality.punctuation), filters.quality)
    if filters.repetition.enabled:
        found += faults("repetition", repetition_measures(view), filters.repetition)
    if filters.c4.enabled:
        lines, broken = c4_faults(view, filters.c4)
        found += broken
        view = view if broken else View("\n".join(lines), language)
    if filters.fineweb.enabled:
        found += faults("fineweb", fineweb_measures(view, filters.fineweb.short_line), filters.fineweb)
    return found
