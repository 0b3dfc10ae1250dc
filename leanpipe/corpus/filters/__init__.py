"""The heuristics by which documents are dropped, one file each: Gopher's quality and repetition, C4's, FineWeb's.

A new one: a config class with `enabled`, a function `(View, config) -> Fault | None` in a file of its own, a field of
`Filters`, and a line in `filter_text` and in `all_faults`.
"""

from typing import NamedTuple

from leanpipe.corpus.document import Fault
from leanpipe.corpus.filters.c4 import C4Config, c4_clean, c4_faults
from leanpipe.corpus.filters.document_statistics import View
from leanpipe.corpus.filters.fineweb import FineWebConfig, fineweb_fault, fineweb_measures
from leanpipe.corpus.filters.quality import QualityConfig, quality_fault, quality_measures, too_long
from leanpipe.corpus.filters.repetition import RepetitionConfig, repetition_fault, repetition_measures
from leanpipe.corpus.filters.thresholds import faults

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
    """The settings of all filters."""

    quality: QualityConfig = QualityConfig()
    repetition: RepetitionConfig = RepetitionConfig()
    c4: C4Config = C4Config()
    fineweb: FineWebConfig = FineWebConfig()


def filter_text(text: str, language: str, filters: Filters) -> tuple[str, Fault | None]:
    """(what the filters leave of `text`, the first bound that it breaks). A dropped text is returned as it was.

    C4 takes out lines, and FineWeb sees what is left; Gopher's rules see the text as it was, as in FineWeb's own
    pipeline (Penedo et al. 2024, section 3.7). Those on lines are asked first, for they cost a tenth of those on words:
    the order decides which rule is named, never which document is dropped.
    """
    view = View(text, language)
    if fault := too_long(view, filters.quality):
        return text, fault
    cleaned, fault = c4_clean(view, filters.c4)
    if not fault:
        fault = fineweb_fault(view if cleaned == text else View(cleaned, language), filters.fineweb)
    fault = fault or quality_fault(view, filters.quality) or repetition_fault(view, filters.repetition)
    return (text, fault) if fault else (cleaned, None)


def all_faults(text: str, language: str, filters: Filters) -> list[Fault]:
    """Every bound that `text` breaks, with what was measured: for a dry run. Slower than `filter_text`.

    Its first is the one that `filter_text` names. Of a document with far too many words, that is all that is said.
    """
    cleaned = view = View(text, language)
    if fault := too_long(view, filters.quality):
        return [fault]
    found: list[Fault] = []
    if filters.c4.enabled:
        lines, found = c4_faults(view, filters.c4)
        cleaned = view if found else View("\n".join(lines), language)
    if filters.fineweb.enabled:
        found += faults("fineweb", fineweb_measures(cleaned, filters.fineweb.short_line), filters.fineweb)
    if filters.quality.enabled:
        found += faults("quality", quality_measures(view, filters.quality.punctuation), filters.quality)
    if filters.repetition.enabled:
        found += faults("repetition", repetition_measures(view), filters.repetition)
    return found
