"""The quality and repetition heuristics of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1).

Each measure is named for the config field that bounds it, so that a dropped document says which knob let it go.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from pydantic import Field

from leanpipe.config import StageConfig
from leanpipe.text.document import Fault
from leanpipe.text.language import SPACELESS

STOP_WORDS = frozenset(
    {"the", "be", "to", "of", "and", "that", "have", "with"}
)  # the paper's own eight, English
_WORD = re.compile(r"\w+")
_LETTER = re.compile(r"[^\W\d_]")
_BULLETS = ("•", "●", "◦", "▪", "‣", "-", "*")
_ELLIPSES = ("...", "…")


class QualityConfig(StageConfig):
    """Gopher's "quality filtering". A document outside any of these bounds is dropped."""

    enabled: bool = True
    """Whether these bounds are applied at all."""
    min_words: int = Field(50, ge=0, le=1_000_000)
    """Fewest words of a document (paper: 50)."""
    max_words: int = Field(100_000, ge=1, le=1_000_000_000)
    """Most words of a document (paper: 100,000)."""
    min_mean_word_length: float = Field(3.0, ge=0, le=100)
    """Least mean length of its words, in characters (paper: 3). Not measured in languages without spaces."""
    max_mean_word_length: float = Field(10.0, ge=0, le=1000)
    """Greatest mean length of its words, in characters (paper: 10). Not measured in languages without spaces."""
    max_hashes_per_word: float = Field(0.1, ge=0, le=1000)
    """Most hash signs (#) per word (paper: 0.1)."""
    max_ellipses_per_word: float = Field(0.1, ge=0, le=1000)
    """Most ellipses (... or …) per word (paper: 0.1)."""
    max_bullet_lines: float = Field(0.9, ge=0, le=1)
    """Greatest share of its lines that start with a bullet (paper: 0.9)."""
    max_ellipsis_lines: float = Field(0.3, ge=0, le=1)
    """Greatest share of its lines that end with an ellipsis (paper: 0.3)."""
    min_alphabetic_words: float = Field(0.8, ge=0, le=1)
    """Least share of its words that contain a letter (paper: 0.8)."""
    min_stop_words: int = Field(2, ge=0, le=len(STOP_WORDS))
    """How many of "the, be, to, of, and, that, have, with" must occur (paper: 2). Measured in English only."""


class RepetitionConfig(StageConfig):
    """Gopher's "repetition removal", table A1. A document above any of these shares is dropped."""

    enabled: bool = True
    """Whether these bounds are applied at all."""
    max_duplicate_lines: float = Field(0.30, ge=0, le=1)
    """Greatest share of lines that repeat an earlier line (paper: 0.30)."""
    max_duplicate_paragraphs: float = Field(0.30, ge=0, le=1)
    """Greatest share of paragraphs that repeat an earlier paragraph (paper: 0.30)."""
    max_duplicate_line_characters: float = Field(0.20, ge=0, le=1)
    """Greatest share of characters in repeated lines (paper: 0.20)."""
    max_duplicate_paragraph_characters: float = Field(0.20, ge=0, le=1)
    """Greatest share of characters in repeated paragraphs (paper: 0.20)."""
    max_top_2_gram: float = Field(0.20, ge=0, le=1)
    """Greatest share of characters in the commonest pair of words (paper: 0.20)."""
    max_top_3_gram: float = Field(0.18, ge=0, le=1)
    """Greatest share of characters in the commonest three words (paper: 0.18)."""
    max_top_4_gram: float = Field(0.16, ge=0, le=1)
    """Greatest share of characters in the commonest four words (paper: 0.16)."""
    max_duplicate_5_grams: float = Field(0.15, ge=0, le=1)
    """Greatest share of characters in repeated runs of 5 words (paper: 0.15)."""
    max_duplicate_6_grams: float = Field(0.14, ge=0, le=1)
    """Greatest share of characters in repeated runs of 6 words (paper: 0.14)."""
    max_duplicate_7_grams: float = Field(0.13, ge=0, le=1)
    """Greatest share of characters in repeated runs of 7 words (paper: 0.13)."""
    max_duplicate_8_grams: float = Field(0.12, ge=0, le=1)
    """Greatest share of characters in repeated runs of 8 words (paper: 0.12)."""
    max_duplicate_9_grams: float = Field(0.11, ge=0, le=1)
    """Greatest share of characters in repeated runs of 9 words (paper: 0.11)."""
    max_duplicate_10_grams: float = Field(0.10, ge=0, le=1)
    """Greatest share of characters in repeated runs of 10 words (paper: 0.10)."""


class Measure(NamedTuple):
    """One figure of a document, named for the field that bounds it (`min_…` from below, `max_…` from above)."""

    field: str
    value: float


def quality_fault(text: str, language: str, config: QualityConfig) -> Fault | None:
    """The first bound of `config` that `text` breaks."""
    if not config.enabled:
        return None
    return _first_fault("quality", quality_measures(text, language), config)


def repetition_fault(text: str, language: str, config: RepetitionConfig) -> Fault | None:
    """The first bound of `config` that `text` breaks."""
    if not config.enabled:
        return None
    return _first_fault("repetition", repetition_measures(text, language), config)


def quality_measures(text: str, language: str) -> Iterator[Measure]:
    """What `QualityConfig` bounds, in its order."""
    words = split_words(text, language)
    count = max(1, len(words))
    yield Measure("min_words", len(words))
    yield Measure("max_words", len(words))
    if language not in SPACELESS:
        mean_length = sum(map(len, words)) / count
        yield Measure("min_mean_word_length", mean_length)
        yield Measure("max_mean_word_length", mean_length)
    yield Measure("max_hashes_per_word", text.count("#") / count)
    yield Measure("max_ellipses_per_word", sum(map(text.count, _ELLIPSES)) / count)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    yield Measure("max_bullet_lines", _share(line.startswith(_BULLETS) for line in lines))
    yield Measure("max_ellipsis_lines", _share(line.endswith(_ELLIPSES) for line in lines))
    yield Measure("min_alphabetic_words", _share(bool(_LETTER.search(word)) for word in words))
    if language == "en":
        yield Measure("min_stop_words", len(STOP_WORDS.intersection(_WORD.findall(text.lower()))))


def repetition_measures(text: str, language: str) -> Iterator[Measure]:
    """What `RepetitionConfig` bounds, in its order. Characters are those of lines and words, without white space."""
    for name, parts in (("line", text.split("\n")), ("paragraph", text.split("\n\n"))):
        parts = [part.strip() for part in parts if part.strip()]
        repeated = list(_repeats(parts))
        yield Measure(f"max_duplicate_{name}s", len(repeated) / max(1, len(parts)))
        yield Measure(f"max_duplicate_{name}_characters", _length(repeated) / max(1, _length(parts)))
    yield from _gram_measures(split_words(text, language))


def split_words(text: str, language: str) -> list[str]:
    """What stands between spaces; in a language without them, every letter and digit is a word."""
    return re.findall(r"\w", text) if language in SPACELESS else text.split()


def _gram_measures(words: list[str]) -> Iterator[Measure]:
    """Runs of n words as whole numbers: the number of a run follows from that of its first n-1 words and its last."""
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    numbers: dict[str, int] = {}
    single = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64)
    grams, total = single, max(1, int(lengths.sum()))
    for n in range(2, min(10, len(words)) + 1):
        _, first, grams, counts = np.unique(
            grams[:-1] * len(words) + single[n - 1 :],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        if n <= 4:
            yield Measure(f"max_top_{n}_gram", _top_gram(first, counts, lengths, n) / total)
        if n >= 5:
            yield Measure(f"max_duplicate_{n}_grams", _repeated_grams(first, grams, lengths, n) / total)


def _top_gram(first: np.ndarray, counts: np.ndarray, lengths: np.ndarray, n: int) -> float:
    """Characters in the commonest run of n words, if it occurs twice; of equally common ones, the longest."""
    if counts.max() < 2:
        return 0
    sizes = np.convolve(lengths, np.ones(n, dtype=np.int64), mode="valid")[first]
    return float((counts * sizes)[counts == counts.max()].max())


def _repeated_grams(first: np.ndarray, grams: np.ndarray, lengths: np.ndarray, n: int) -> float:
    """Characters of the words in any run of n words that occurred before. A word in several such runs counts once."""
    repeats: np.ndarray = np.ones(len(grams), dtype=np.int64)
    repeats[first] = 0
    covered = np.convolve(repeats, np.ones(n, dtype=np.int64)) > 0
    return float(lengths[covered].sum())


def _first_fault(group: str, measures: Iterator[Measure], config: StageConfig) -> Fault | None:
    for field, value in measures:
        bound = getattr(config, field)
        if value < bound if field.startswith("min_") else value > bound:
            return Fault(f"{group}.{field}", float(value))
    return None


def _repeats(parts: list[str]) -> Iterator[str]:
    for part, count in Counter(parts).items():
        yield from [part] * (count - 1)


def _length(parts: list[str]) -> int:
    return sum(map(len, parts))


def _share(truths: Iterator[bool]) -> float:
    values = list(truths)
    return sum(values) / max(1, len(values))
