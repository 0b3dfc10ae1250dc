"""Gopher's quality filtering: Rae et al. 2021, "Scaling Language Models", arXiv:2112.11446, appendix A.1.1.

Rules are tried in the order of the fields, and the first that a document breaks is named.
"""

from collections.abc import Iterator

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.corpus.document import Fault
from leanpipe.corpus.filters.document_statistics import DocumentStatistics
from leanpipe.corpus.filters.thresholds import Measure, exceeded_bounds
from leanpipe.corpus.filters.word_split import STOP_WORDS

_BULLETS = ("•", "●", "◦", "▪", "‣", "-", "*")
_ELLIPSES = ("...", "…")


class QualityConfig(StageConfig):
    """Gopher's quality rules (Rae et al. 2021, A.1.1). A document outside any of these bounds is dropped."""

    enabled: bool = True
    """Whether these bounds are applied at all."""
    punctuation: bool = False
    """Whether a punctuation mark counts as a word in shares of words, as in stock datatrove: drops far more of what is
    full of code and numbers."""
    min_words: int = Field(50, ge=0, le=1_000_000)
    """Fewest words with a letter or digit (Rae et al. 2021, A.1.1: 50)."""
    max_words: int = Field(100_000, ge=1, le=1_000_000_000)
    """Most words with a letter or digit (Rae et al. 2021, A.1.1: 100,000)."""
    min_mean_word_length: float = Field(3.0, ge=0, le=100)
    """Least mean length of its words, in characters (Rae et al. 2021, A.1.1: 3). Not measured in languages without
    spaces."""
    max_mean_word_length: float = Field(10.0, ge=0, le=1000)
    """Greatest mean length of its words, in characters (Rae et al. 2021, A.1.1: 10). Not measured in languages without
    spaces."""
    max_hashes_per_word: float = Field(0.1, ge=0, le=1000)
    """Most hash signs (#) per word (Rae et al. 2021, A.1.1: 0.1)."""
    max_ellipses_per_word: float = Field(0.1, ge=0, le=1000)
    """Most ellipses (... or …) per word (Rae et al. 2021, A.1.1: 0.1)."""
    min_alphabetic_words: float = Field(0.8, ge=0, le=1)
    """Least share of its words that contain a letter (Rae et al. 2021, A.1.1: 0.8)."""
    min_stop_words: int = Field(2, ge=0, le=len(STOP_WORDS))
    """How many of "the, be, to, of, and, that, have, with" must occur (Rae et al. 2021, A.1.1: 2). Measured in English
    only."""
    max_bullet_lines: float = Field(0.9, ge=0, le=1)
    """Greatest share of its lines that start with a bullet (Rae et al. 2021, A.1.1: 0.9)."""
    max_ellipsis_lines: float = Field(0.3, ge=0, le=1)
    """Greatest share of its lines that end with an ellipsis (Rae et al. 2021, A.1.1: 0.3)."""


def quality_faults(document: DocumentStatistics, config: QualityConfig) -> Iterator[Fault]:
    """Yield the bounds that the document breaks, measuring only as far as is asked."""
    if not config.enabled:
        return
    if fault := too_long(document, config):
        yield fault
    else:
        yield from exceeded_bounds("quality", quality_measures(document, config.punctuation), config)


def too_long(document: DocumentStatistics, config: QualityConfig) -> Fault | None:
    """Tell that a huge document has too many words, by how many it has at least: its words are not held in memory."""
    if config.enabled and document.least_words > max(config.min_words, config.max_words):
        return Fault("quality.max_words", float(document.least_words))
    return None


def quality_measures(document: DocumentStatistics, punctuation: bool = False) -> Iterator[Measure]:
    """Measure what `QualityConfig` bounds, in its order. Of no words or lines, every share is 0."""
    counts = document.counts
    real = max(1, counts.real)
    words = max(1, counts.words) if punctuation else real
    yield Measure("min_words", counts.real)
    yield Measure("max_words", counts.real)
    if not document.spaceless:
        yield Measure("min_mean_word_length", counts.characters / real)
        yield Measure("max_mean_word_length", counts.characters / real)
    yield Measure("max_hashes_per_word", document.text.count("#") / words)
    ellipses = sum(map(document.text.count, _ELLIPSES))
    yield Measure("max_ellipses_per_word", ellipses / words)
    yield Measure("min_alphabetic_words", counts.alphabetic / words)
    if document.language == "en":
        yield Measure("min_stop_words", counts.stop_words)
    lines = document.lines
    yield Measure(
        "max_bullet_lines", sum(line.lstrip()[:1] in _BULLETS for line in lines) / max(1, len(lines))
    )
    ending = sum(line.rstrip().endswith(_ELLIPSES) for line in lines) if ellipses else 0
    yield Measure("max_ellipsis_lines", ending / max(1, len(lines)))
