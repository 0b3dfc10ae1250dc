"""`python -m benchmarks.extraction`: every method of extraction on the same pages, how fast it is and what of the text it finds.

The measure: of the words of a page (`\\w+`, each as often as it stands there) that the markup itself says are content,
the share that is found (recall), and of what is found the share that is content (precision); F1 of both, averaged over
pages. Content is everything but the navigation: of PostgreSQL's manual all but `div.navheader` and `div.navfooter`, of
the Debian handbook all but its banner, title and `ul.docnav`; read with Python's own parser, which no method uses. The
peer of the claims is trafilatura. Speed is in megabytes of HTML per second on one core, medians of runs in turns.
"""

import os
import re
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1"}

from benchmarks.pages import pages
from benchmarks.report import claim, interleaved, write
from leanpipe.corpus.extract.main_text import ExtractConfig, extract_main_text

METHODS = ("blocks", "resiliparse", "selectolax", "trafilatura")
SAMPLE = 250  # pages that are scored: trafilatura takes ten seconds for them
TIMED = 60  # … and that are timed
REPEATS = 5

NAVIGATION_IDS = {"banner", "title"}
NAVIGATION_CLASSES = {"docnav", "navheader", "navfooter"}
SILENT = {"head", "script", "style"}
INLINE = re.compile("a|abbr|acronym|b|code|em|i|kbd|q|samp|small|span|strong|sub|sup|tt|u|var")
VOID = re.compile("area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr")


def main() -> None:
    texts = [path.read_text(errors="replace") for path in pages(SAMPLE)]
    scores = {method: quality(method, texts) for method in METHODS}
    speeds = speed(texts[:: max(1, len(texts) // TIMED)])
    print(f"{'method':<14}{'MB/s':>8}{'precision':>12}{'recall':>10}{'F1':>10}")
    for method in METHODS:
        print(f"{method:<14}{speeds[method]:>8.2f}" + "".join(f"{value:>10.4f}" for value in scores[method]))
    write("extraction", claims(scores, speeds))


def claims(scores: dict[str, "Score"], speeds: dict[str, float]) -> list[dict]:
    ours, peer = "blocks", "trafilatura"
    return [
        claim("extraction, speed", speeds[ours], speeds[peer], "MB/s", 15),
        claim("extraction, F1 of the words", scores[ours].f1, scores[peer].f1, "", 1),
        claim("extraction, precision", scores[ours].precision, scores[peer].precision, "", 1),
        claim("extraction, recall", scores[ours].recall, scores[peer].recall, "", 1),
    ]


class Score(NamedTuple):
    precision: float
    recall: float
    f1: float


def quality(method: str, texts: list[str]) -> Score:
    """Means over the pages that have content."""
    config = ExtractConfig(method=method)
    scores = [
        score(words(extract_main_text(text, config).text), content)
        for text in texts
        if (content := words(gold(text)))
    ]
    return Score(*(sum(column) / len(scores) for column in zip(*scores, strict=True)))


def score(found: Counter, content: Counter) -> Score:
    common = (found & content).total()
    precision = common / found.total() if found else 0.0
    recall = common / content.total()
    return Score(precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0)


def words(text: str) -> Counter:
    return Counter(re.findall(r"\w+", text))


def gold(html: str) -> str:
    reader = Content()
    reader.feed(html)
    reader.close()
    return "".join(reader.parts)


class Content(HTMLParser):
    """The text of a page outside of navigation and `SILENT`; tags that are not inline part words."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._open: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._part(tag)
        if not VOID.fullmatch(tag):
            values = dict(attrs)
            classes = set((values.get("class") or "").split())
            noise = values.get("id") in NAVIGATION_IDS or bool(classes & NAVIGATION_CLASSES)
            self._open.append((tag, noise or tag in SILENT))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._part(tag)

    def handle_endtag(self, tag: str) -> None:
        self._part(tag)
        while not VOID.fullmatch(tag) and self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not any(noise for _, noise in self._open):
            self.parts.append(data)

    def _part(self, tag: str) -> None:
        if not INLINE.fullmatch(tag):
            self.parts.append(" ")


def speed(texts: list[str]) -> dict[str, float]:
    size = sum(len(text.encode()) for text in texts) / 1e6
    configs = [ExtractConfig(method=method) for method in METHODS]
    runs = [partial(extract, texts, config) for config in configs]
    for run in runs:
        run()  # imports
    return {method: size / taken for method, taken in zip(METHODS, interleaved(runs, REPEATS), strict=True)}


def extract(texts: list[str], config: ExtractConfig) -> None:
    for text in texts:
        extract_main_text(text, config)


if __name__ == "__main__":
    main()
