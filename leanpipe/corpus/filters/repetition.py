"""Gopher's repetition removal: Rae et al. 2021, "Scaling Language Models", arXiv:2112.11446, A.1.1 and table A1.

Rules are tried in the order of the fields, and the first that a document breaks is named. Most documents repeat so
little that a bound on what could be repeated settles all rules on runs of words at once; only the others are measured.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.corpus.document import Fault
from leanpipe.corpus.filters.document_statistics import DocumentStatistics, Words
from leanpipe.corpus.filters.thresholds import Measure, count_repeated, exceeded_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOP = (2, 3, 4)
_DUPLICATE = (5, 6, 7, 8, 9, 10)
_FIELDS = {n: f"max_top_{n}_gram" for n in _TOP} | {n: f"max_duplicate_{n}_grams" for n in _DUPLICATE}


class RepetitionConfig(StageConfig):
    """Gopher's repetition rules (Rae et al. 2021, table A1). A document above any of these shares is dropped."""

    enabled: bool = True
    """Whether these bounds are applied at all."""
    max_duplicate_paragraphs: float = Field(0.30, ge=0, le=1)
    """Greatest share of paragraphs that repeat an earlier paragraph (Rae et al. 2021, table A1: 0.30)."""
    max_duplicate_paragraph_characters: float = Field(0.20, ge=0, le=1)
    """Greatest share of characters in repeated paragraphs (Rae et al. 2021, table A1: 0.20)."""
    max_duplicate_lines: float = Field(0.30, ge=0, le=1)
    """Greatest share of lines that repeat an earlier line (Rae et al. 2021, table A1: 0.30)."""
    max_duplicate_line_characters: float = Field(0.20, ge=0, le=1)
    """Greatest share of characters in repeated lines (Rae et al. 2021, table A1: 0.20)."""
    max_top_2_gram: float = Field(0.20, ge=0, le=1)
    """Greatest share of characters in the commonest pair of words (Rae et al. 2021, table A1: 0.20)."""
    max_top_3_gram: float = Field(0.18, ge=0, le=1)
    """Greatest share of characters in the commonest three words (Rae et al. 2021, table A1: 0.18)."""
    max_top_4_gram: float = Field(0.16, ge=0, le=1)
    """Greatest share of characters in the commonest four words (Rae et al. 2021, table A1: 0.16)."""
    max_duplicate_5_grams: float = Field(0.15, ge=0, le=1)
    """Greatest share of characters in repeated runs of 5 words (Rae et al. 2021, table A1: 0.15)."""
    max_duplicate_6_grams: float = Field(0.14, ge=0, le=1)
    """Greatest share of characters in repeated runs of 6 words (Rae et al. 2021, table A1: 0.14)."""
    max_duplicate_7_grams: float = Field(0.13, ge=0, le=1)
    """Greatest share of characters in repeated runs of 7 words (Rae et al. 2021, table A1: 0.13)."""
    max_duplicate_8_grams: float = Field(0.12, ge=0, le=1)
    """Greatest share of characters in repeated runs of 8 words (Rae et al. 2021, table A1: 0.12)."""
    max_duplicate_9_grams: float = Field(0.11, ge=0, le=1)
    """Greatest share of characters in repeated runs of 9 words (Rae et al. 2021, table A1: 0.11)."""
    max_duplicate_10_grams: float = Field(0.10, ge=0, le=1)
    """Greatest share of characters in repeated runs of 10 words (Rae et al. 2021, table A1: 0.10)."""


class Repeats(NamedTuple):
    """The runs of n words that occur more than once."""

    size: int
    """n."""
    groups: "NDArray[np.int64]"
    """For each word, if the run that begins there is such a one, the first place where it stands; else -1."""


def repetition_faults(document: DocumentStatistics, config: RepetitionConfig) -> Iterator[Fault]:
    """Yield the bounds that the document breaks, measuring only as far as is asked."""
    if config.enabled:
        yield from exceeded_bounds("repetition", repetition_measures(document, config), config)


def repetition_measures(
    document: DocumentStatistics, config: RepetitionConfig | None = None
) -> Iterator[Measure]:
    """Measure what `RepetitionConfig` bounds, in its order; with a `config`, only what may break its bounds.

    Shares of characters are of all the text's, white space included.
    """
    total = max(1, len(document.text))
    for name, parts in (("paragraph", document.paragraphs), ("line", document.lines)):
        count, characters = count_repeated(parts)
        yield Measure(f"max_duplicate_{name}s", count / max(1, len(parts)))
        yield Measure(f"max_duplicate_{name}_characters", characters / total)
    least = {n: getattr(config, field) * total if config else -1.0 for n, field in _FIELDS.items()}
    for n, characters in _gram_characters(document.words, least):
        yield Measure(_FIELDS[n], min(1.0, characters / total))  # for runs of one word may overlap


def _gram_characters(words: Words, least: dict[int, float]) -> Iterator[tuple[int, int]]:
    """(n, characters in the commonest run of n words or in repeated ones), where that may be more than `least[n]`."""
    ends: Any = np.zeros(len(words.lengths) + 1, np.int64)
    np.cumsum(words.lengths, out=ends[1:])
    repeats = _pairs(words.numbers)
    top, most = _top(repeats, ends)
    yield 2, top
    if 3 * most <= min(least[3], least[4]):  # four words are two pairs as common, and a space
        repeats = _longer(repeats, 2)
    else:
        for n in (3, 4):
            repeats = _longer(repeats, 1)
            yield n, _top(repeats, ends)[0]
    covered = _covered(repeats, ends)
    for n in _DUPLICATE:
        if covered <= min(least[longer] for longer in range(n, 11)):
            return
        repeats = _longer(repeats, 1)
        covered = _covered(repeats, ends)
        if covered > least[n]:
            yield n, _duplicate(repeats, ends)


def _pairs(numbers: "NDArray[np.int64]") -> Repeats:
    bits = int(numbers.max(initial=0)).bit_length()
    places = np.arange(max(0, len(numbers) - 1))
    return Repeats(2, _groups(len(numbers), places, numbers[:-1], numbers[1:], bits))


def _longer(repeats: Repeats, by: int) -> Repeats:
    """The repeats of runs that are `by` words longer: each begins with one of `repeats`, and ends with another."""
    size, groups = repeats
    places = np.flatnonzero((groups[:-by] | groups[by:]) >= 0)
    bits = len(groups).bit_length()
    return Repeats(size + by, _groups(len(groups), places, groups[places], groups[places + by], bits))


def _groups(words: int, places: Any, first: Any, last: Any, bits: int) -> Any:
    """`Repeats.groups` of the runs at `places` (ascending), each told by two numbers of so many `bits`."""
    groups: Any = np.empty(words, np.int64)
    groups.fill(-1)
    order, keys = _sorted((first << bits) | last, 2 * bits)
    same: Any = np.zeros(len(keys) + 1, np.bool_)
    np.equal(keys[1:], keys[:-1], out=same[1:-1])
    several = np.flatnonzero(same[1:] | same[:-1])
    if len(several):
        found, starts = places[order[several]], ~same[several]
        groups[found] = found[starts][starts.cumsum() - 1]
    return groups


def _sorted(keys: Any, bits: int) -> tuple[Any, Any]:
    """(order, keys in that order) of numbers of so many `bits`. Equal ones keep their order."""
    place_bits = len(keys).bit_length()
    if bits + place_bits >= 64:
        order = keys.argsort(kind="stable")
        return order, keys[order]
    # Sorting numbers that hold their places is several times faster than sorting places by numbers.
    packed = (keys << place_bits) | np.arange(len(keys))
    packed.sort()
    return packed & ((1 << place_bits) - 1), packed >> place_bits


def _top(repeats: Repeats, ends: "NDArray[np.int64]") -> tuple[int, int]:
    """(characters in the commonest run, in the run with most characters), spaces included; none if nothing repeats."""
    size, groups = repeats
    places = np.flatnonzero(groups >= 0)
    if not len(places):
        return 0, 0
    groups = groups[places]
    counts = np.bincount(groups)[groups]
    characters = counts * (ends[places + size] - ends[places] + size - 1)
    return int(characters[counts.argmax()]), int(characters.max())


def _covered(repeats: Repeats, ends: "NDArray[np.int64]") -> int:
    """Characters in runs that occurred before: no fewer than `_duplicate` of these and of longer runs."""
    size, groups = repeats
    places = np.flatnonzero(groups >= 0)
    again = places[groups[places] < places]
    if not len(again):
        return 0
    stops = again + size
    np.minimum(stops[:-1], again[1:], out=stops[:-1])
    return int((ends[stops] - ends[again]).sum())


def _duplicate(repeats: Repeats, ends: "NDArray[np.int64]") -> int:
    """Characters in runs that occurred before. Of such runs that overlap, only the first counts."""
    size, groups = repeats
    places = np.flatnonzero(groups >= 0)
    characters = (ends[places + size] - ends[places]).tolist()
    after: Any = np.searchsorted(places, places + size).tolist()  # which is next if this one counts
    firsts: list[int] = groups[places].tolist()
    seen: set[int] = set()
    total = run = 0
    while run < len(firsts):
        if firsts[run] in seen:
            total += characters[run]
            run = after[run]
        else:
            seen.add(firsts[run])
            run += 1
    return total
