"""The heuristics by which documents are dropped, one file each: Gopher's quality and repetition, C4's, FineWeb's.

Add a filter in three steps: a config class with `enabled` and a generator `(DocumentStatistics, config) -> Fault, …` in
a file of its own; a field of `Filters`; a line in `filter_faults`.
"""

from collections.abc import Generator
from typing import NamedTuple

from leanpipe.corpus.document import Fault
from leanpipe.corpus.filters.c4 import C4Config, c4_clean
from leanpipe.corpus.filters.document_statistics import DocumentStatistics
from leanpipe.corpus.filters.fineweb import FineWebConfig, fineweb_faults, fineweb_measures
from leanpipe.corpus.filters.quality import QualityConfig, quality_faults, quality_measures, too_long
from leanpipe.corpus.filters.repetition import RepetitionConfig, repetition_faults, repetition_measures

__all__ = [
    "C4Config",
    "DocumentStatistics",
    "Filters",
    "FineWebConfig",
    "QualityConfig",
    "RepetitionConfig",
    "c4_clean",
    "filter_faults",
    "fineweb_faults",
    "fineweb_measures",
    "quality_faults",
    "quality_measures",
    "repetition_faults",
    "repetition_measures",
]


class Filters(NamedTuple):
    """The settings of all filters."""

    quality: QualityConfig = QualityConfig()
    repetition: RepetitionConfig = RepetitionConfig()
    c4: C4Config = C4Config()
    fineweb: FineWebConfig = FineWebConfig()


def filter_faults(document: DocumentStatistics, filters: Filters) -> Generator[Fault, None, str]:
    """Yield every bound that the document breaks, and return what the filters leave of its text: all, if it breaks one.

    Lazy: who takes only the first fault pays only for the measures up to it. C4 takes out lines, and FineWeb sees what is
    left; Gopher's rules see the text as it was, as in FineWeb's own pipeline (Penedo et al. 2024, section 3.7). Rules on
    lines are asked first, for they cost a tenth of those on words: the order decides which rule is named first, never
    which document is dropped. Of a document with far too many words, that is all that is said.
    """
    if fault := too_long(document, filters.quality):
        yield fault
        return document.text
    cleaned, faults = c4_clean(document, filters.c4)
    yield from faults
    left = document if cleaned == document.text else DocumentStatistics(cleaned, document.language)
    broken = bool(faults)
    for group in (
        fineweb_faults(left, filters.fineweb),
        quality_faults(document, filters.quality),
        repetition_faults(document, filters.repetition),
    ):
        for fault in group:
            broken = True
            yield fault
    return document.text if broken else cleaned
