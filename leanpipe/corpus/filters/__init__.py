"""The heuristics by which documents are dropped, one file each: Gopher's quality and repetition, C4's, FineWeb's.

A new one: a config class with `enabled`, a function `(View, config) -> Fault | None` in a file of its own, a field of
`Filters`, and a line in `filter_text` and in `all_faults`.
"""

from typing import NamedTuple

from leanpipe.corpus.document import Fault
from leanpipe.corpus.filters.c4 import C4Config, c4_clean, c4_faults
from leanpipe.corpus.filters.document_statistics import DocumentStatistics
from leanpipe.corpus.filters.fineweb import FineWebConfig, fineweb_fault, fineweb_measures
from leanpipe.corpus.filters.quality import QualityConfig, quality_fault, quality_measures, too_long
from leanpipe.corpus.filters.repetition import RepetitionConfig, repetition_fault, repetition_measures
from leanpipe.corpus.filters.thresholds import exceeded_bounds

__all__ = [
    "C4Config",
    "DocumentStatistics",
    "Filters",
    "FineWebConfig",
    "QualityConfig",
    "RepetitionConfig",
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
    document = DocumentStatistics(text, language)
    if fault := too_long(document, filters.quality):
        return text, fault
    cleaned, fault = c4_clean(document, filters.c4)
    if not fault:
        fault = fineweb_fault(
            document if cleaned == text else DocumentStatistics(cleaned, language), filters.fineweb
        )
    fault = (
        fault or quality_fault(document, filters.quality) or repetition_fault(document, filters.repetition)
    )
    return (text, fault) if fault else (cleaned, None)


def all_faults(text: str, language: str, filters: Filters) -> list[Fault]:
    """Every bound that `text` breaks, with what was measured: for a dry run. Slower than `filter_text`.

    Its first is the one that `filter_text` names. Of a document with far too many words, that is all that is said.
    """
    cleaned = document = DocumentStatistics(text, language)
    if fault := too_long(document, filters.quality):
        return [fault]
    found: list[Fault] = []
    if filters.c4.enabled:
        lines, found = c4_faults(document, filters.c4)
        cleaned = document if found else DocumentStatistics("\n".join(lines), language)
    if filters.fineweb.enabled:
        found += exceeded_bounds(
            "fineweb", fineweb_measures(cleaned, filters.fineweb.short_line), filters.fineweb
        )
    if filters.quality.enabled:
        found += exceeded_bounds(
            "quality", quality_measures(document, filters.quality.punctuation), filters.quality
        )
    if filters.repetition.enabled:
        found += exceeded_bounds("repetition", repetition_measures(document), filters.repetition)
    return found
