"""`python -m benchmarks.filters`: Gopher's, C4's and FineWeb's rules against stock datatrove, with the same thresholds on
the same texts: megabytes per second on one core, and the share of documents on which both say keep or both say drop.

The texts are extracted once, by resiliparse. Each third of them is timed in turns, in seconds of the processor; ours
begins in a new thread, whose tables of words are as empty as those of a new process. datatrove needs spaCy for its words.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1"}

from benchmarks.pages import pages
from benchmarks.report import claim, write
from leanpipe.corpus.filters import (
    C4Config,
    DocumentStatistics,
    Filters,
    FineWebConfig,
    QualityConfig,
    RepetitionConfig,
    c4_clean,
    filter_faults,
    fineweb_faults,
    quality_faults,
    repetition_faults,
)
from leanpipe.corpus.normalize import normalize

PARTS = 3
SAMPLE = 600  # pages: stock datatrove takes a minute for them
CHARACTERS_REPEATED = 0.01  # FineWeb's, as datatrove has it; the paper says 0.1
SETTINGS = Filters(
    QualityConfig(punctuation=True),
    RepetitionConfig(),
    C4Config(enabled=True),
    FineWebConfig(enabled=True, max_duplicate_line_characters=CHARACTERS_REPEATED),
)


class Contest(NamedTuple):
    """One filter, or several: whether a text is kept, as we tell and as datatrove does."""

    name: str
    ours: Callable[[str], bool]
    peer: Callable[[str], bool]
    goal: float
    """How many times as fast we are to be."""


def main() -> None:
    texts = extract()
    rows = [row for contest in contests() for row in measure(contest, texts)]
    write("filters", rows)


def extract() -> list[str]:
    from resiliparse.extract.html2text import extract_plain_text

    raw = (path.read_text(errors="replace") for path in pages(SAMPLE))
    texts = (normalize(extract_plain_text(html, main_content=True)) for html in raw)
    return [text for text in texts if text.strip()]


def contests() -> list[Contest]:
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    stock = [
        GopherQualityFilter(),
        GopherRepetitionFilter(),
        C4QualityFilter(),
        FineWebQualityFilter(char_duplicates_ratio=CHARACTERS_REPEATED),
    ]
    quality, repetition, c4, fineweb = SETTINGS
    ours: list[Callable[[str], bool]] = [
        lambda text: not any(quality_faults(DocumentStatistics(text, "en"), quality)),
        lambda text: not any(repetition_faults(DocumentStatistics(text, "en"), repetition)),
        lambda text: not c4_clean(DocumentStatistics(text, "en"), c4)[1],
        lambda text: not any(fineweb_faults(DocumentStatistics(text, "en"), fineweb)),
    ]
    names = ("Gopher quality", "Gopher repetition", "C4", "FineWeb")
    each = [Contest(name, own, keeps([peer]), 10) for name, own, peer in zip(names, ours, stock, strict=True)]
    return [
        *each,
        Contest(
            "four filters",
            lambda text: not any(filter_faults(DocumentStatistics(text, "en"), SETTINGS)),
            keeps(stock),
            15,
        ),
    ]


def keeps(filters: Sequence[Any]) -> Callable[[str], bool]:
    """Whether a text passes all of datatrove's `filters`; the C4 filter changes what those after it see."""
    from datatrove.data import Document

    def keep(text: str) -> bool:
        document = Document(text, "")
        return all(found[0] if isinstance(found := one.filter(document), tuple) else found for one in filters)

    return keep


def measure(contest: Contest, texts: list[str]) -> list[dict[str, Any]]:
    """Two rows: speed and agreement."""
    from datatrove.utils.text import split_into_parts

    answers: list[tuple[bool, bool]] = []
    rates: list[tuple[float, float]] = []
    with ThreadPoolExecutor(1) as thread:
        for part in range(PARTS):
            share = texts[part::PARTS]
            ours, seconds = timed(lambda share=share: thread.submit(each, contest.ours, share).result())
            split_into_parts.cache_clear()
            peer, peer_seconds = timed(lambda share=share: each(contest.peer, share))
            size = sum(len(text.encode()) for text in share) / 1e6
            rates.append((size / seconds, size / peer_seconds))
            answers += zip(ours, peer, strict=True)
    same = sum(own == other for own, other in answers)
    kept, peer_kept = map(sum, zip(*answers, strict=True))
    name = f"{contest.name}: keeps {kept}, peer {peer_kept} of {len(texts)}"
    return [
        claim(contest.name, *map(median, zip(*rates, strict=True)), "MB/s", contest.goal),
        claim(name, same, len(texts), "agree", 0.95),
    ]


def each(keep: Callable[[str], bool], texts: Sequence[str]) -> list[bool]:
    return [keep(text) for text in texts]


def timed(run: Callable[[], list[bool]]) -> tuple[list[bool], float]:
    """(result, seconds of the processor): unlike those of the clock, they are not those of other processes."""
    started = time.process_time()
    return run(), time.process_time() - started


if __name__ == "__main__":
    main()
