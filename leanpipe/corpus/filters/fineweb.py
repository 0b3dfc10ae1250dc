"""FineWeb's own heuristics: Penedo et al. 2024, "The FineWeb Datasets", arXiv:2406.17557, section 3.6.

Rules are tried in the order of the fields, and the first that a document breaks is named.
"""

from collections.abc import Iterator

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.corpus.document import Fault
from leanpipe.corpus.filters.document_statistics import DocumentStatistics
from leanpipe.corpus.filters.thresholds import Measure, count_repeated, exceeded_bounds
from leanpipe.corpus.filters.word_split import TERMINALS


class FineWebConfig(StageConfig):
    """FineWeb's rules (Penedo et al. 2024, section 3.6). Off by default: they are meant for billions of web pages,
    and drop manuals, lists and poems, which a small corpus may be made of."""

    enabled: bool = False
    """Whether these bounds are applied at all."""
    min_terminal_lines: float = Field(0.12, ge=0, le=1)
    """Least share of lines that end with a full stop or the like (Penedo et al. 2024, section 3.6: 0.12)."""
    max_short_lines: float = Field(0.67, ge=0, le=1)
    """Greatest share of short lines (Penedo et al. 2024, section 3.6: 0.67)."""
    short_line: int = Field(30, ge=0, le=10_000)
    """Characters up to which a line is short (Penedo et al. 2024, section 3.6: 30)."""
    max_duplicate_line_characters: float = Field(0.1, ge=0, le=1)
    """Greatest share of characters in repeated lines (Penedo et al. 2024, section 3.6: 0.1; the code that they
    published has 0.01)."""
    max_newlines_per_word: float = Field(0.3, ge=0, le=1000)
    """Most line ends per word (from the code that Penedo et al. 2024 published: 0.3; not in the paper)."""


def fineweb_faults(document: DocumentStatistics, config: FineWebConfig) -> Iterator[Fault]:
    """Yield the bounds that the document breaks, measuring only as far as is asked."""
    if not config.enabled:
        return
    yield from exceeded_bounds("fineweb", _line_measures(document, config.short_line), config)
    # There are at least as many words as pieces between white space, which are found in a fraction of the time.
    if document.text.count("\n") > config.max_newlines_per_word * len(document.text.split()):
        yield from exceeded_bounds("fineweb", [_newlines(document)], config)


def fineweb_measures(document: DocumentStatistics, short_line: int) -> Iterator[Measure]:
    """Measure what `FineWebConfig` bounds, in its order. Of no lines, every share is 0."""
    yield from _line_measures(document, short_line)
    yield _newlines(document)


def _line_measures(document: DocumentStatistics, short_line: int) -> Iterator[Measure]:
    lines = document.lines
    count = max(1, len(lines))
    yield Measure("min_terminal_lines", sum(line[-1] in TERMINALS for line in lines) / count)
    yield Measure("max_short_lines", sum(len(line) <= short_line for line in lines) / count)
    characters = len(document.text) - document.text.count("\n")
    yield Measure("max_duplicate_line_characters", count_repeated(lines)[1] / max(1, characters))


def _newlines(document: DocumentStatistics) -> Measure:
    return Measure("max_newlines_per_word", document.text.count("\n") / max(1, document.counts.words))
