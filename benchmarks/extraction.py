"""`python -m benchmarks.extraction`: every method of extraction on the same pages, how fast it is and what of the text it finds.

The measure: of the words of a page (`\\w+`, each as often as it stands there) that the markup itself says are content,
the share that is found (recall), and of what is found the share that is content (precision); F1 of both, averaged over
pages. Content is everything but the navigation: of PostgreSQL's manual all but `div.navheader` and `div.navfooter`, of
the Debian handbook all but its banner, title and `ul.docnav`; read with Python's own parser, which no method uses. The
peer of the claims is trafilatura. Speed is in megabytes of HTML per second on one core, medians of runs in turns.

`--web FOLDER` (or an archive of it) measures pages of the web too: those under `FOLDER/pages`, by the phrases that
`FOLDER/phrases.json` says must (`with`) and must not (`without`) be in a page's text, counted over all phrases. Such pages, as
trafilatura's evaluation has them (https://github.com/adbar/trafilatura, `tests/eval`), are other people's, and no package holds them
with their phrases. Of pages on which the model was fitted this says too much: `benchmarks.fit_extraction` says what it finds of others.
"""

import argparse
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1"}

from benchmarks.pages import pages
from benchmarks.report import claim, interleaved, write
from leanpipe.corpus.extract.main_text import ExtractConfig, extract_main_text
from leanpipe.corpus.readers.encodings import decode

METHODS = ("blocks", "resiliparse", "selectolax", "trafilatura")
SAMPLE = 250  # pages that are scored: trafilatura takes ten seconds for them
TIMED = 60  # … and that are timed
REPEATS = 5
LEAST_F = 0.92  # of phrases of pages of the web
LEAST_PRECISION = 0.88

NAVIGATION_IDS = {"banner", "title"}
NAVIGATION_CLASSES = {"docnav", "navheader", "navfooter"}
SILENT = {"head", "script", "style"}
INLINE = re.compile("a|abbr|acronym|b|code|em|i|kbd|q|samp|small|span|strong|sub|sup|tt|u|var")
VOID = re.compile("area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--web", type=Path, help="a folder, or archive, of pages of the web with their phrases"
    )
    options = parser.parse_args()
    rows = manuals()
    if options.web:
        with unpacked(options.web) as folder:
            rows += web(folder)
    else:
        print("(pages of the web are not measured: --web names a folder of them, as does make's WEB)")
    write("extraction", rows)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder itself, or that of an archive, for as long as it is needed."""
    if path.is_dir():
        yield path
        return
    with TemporaryDirectory() as folder:
        shutil.unpack_archive(path, folder, filter="data")
        yield Path(folder)


def web(folder: Path) -> list[dict]:
    """Pages of the web, by phrases that a person chose."""
    phrases = json.loads((folder / "phrases.json").read_text())
    texts = [decode((folder / "pages" / name).read_bytes(), html=True).text for name in phrases]
    found = {
        method: [extract_main_text(text, ExtractConfig(method=method)).text for text in texts]
        for method in METHODS
    }
    scores = {method: by_phrases(found[method], [*phrases.values()]) for method in METHODS}
    speeds = speed(texts[::2])
    show(scores, speeds)
    ours, peer = "blocks", "trafilatura"
    speed_row = claim("extraction of the web, speed", speeds[ours], speeds[peer], "MB/s", 8)
    return [speed_row, *claims_of_phrases("extraction of the web", scores[ours], scores[peer])]


def claims_of_phrases(name: str, ours: "Score", peer: "Score") -> list[dict]:
    """The goals are of our own figures; the peer's stand beside them."""
    return [
        claim(f"{name}, F of phrases", ours.f1, peer.f1, "", LEAST_F / peer.f1),
        claim(f"{name}, precision", ours.precision, peer.precision, "", LEAST_PRECISION / peer.precision),
        claim(f"{name}, recall", ours.recall, peer.recall, "", 0.95),
    ]


def by_phrases(found: Sequence[str], phrases: Sequence[dict[str, list[str]]]) -> "Score":
    """Over the phrases of all pages, those that must and those that must not be found."""
    count: Counter[tuple[str, bool]] = Counter()
    for text, of_page in zip(found, phrases, strict=True):
        count.update((kind, phrase in text) for kind, those in of_page.items() for phrase in those)
    precision = count["with", True] / max(1, count["with", True] + count["without", True])
    recall = count["with", True] / max(1, count["with", True] + count["with", False])
    return Score(precision, recall, 2 * precision * recall / max(1e-9, precision + recall))


def manuals() -> list[dict]:
    """Pages of manuals, of which the markup tells the content."""
    texts = [path.read_text(errors="replace") for path in pages(SAMPLE)]
    scores = {method: quality(method, texts) for method in METHODS}
    speeds = speed(texts[:: max(1, len(texts) // TIMED)])
    show(scores, speeds)
    return claims(scores, speeds)


def show(scores: dict[str, "Score"], speeds: dict[str, float]) -> None:
    print(f"{'method':<14}{'MB/s':>8}{'precision':>12}{'recall':>10}{'F1':>10}")
    for method in METHODS:
        print(f"{method:<14}{speeds[method]:>8.2f}" + "".join(f"{value:>10.4f}" for value in scores[method]))


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
