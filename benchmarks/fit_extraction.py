"""`python -m benchmarks.fit_extraction FOLDER`: fit the model that finds a page's own text, and say what it finds of pages it did not see.

FOLDER holds pages of the web under `pages/`, and `phrases.json`: of each page phrases that must (`with`) and must not
(`without`) be in its text, as a person said (the form of trafilatura's evaluation). Manuals are fetched from Debian by name.

What a block is taken to be: what a phrase in it says; else, with less weight, whether trafilatura and resiliparse keep it. Of
manuals: whether it stands in the element that is marked as main, or outside the navigation of the two whose markup is known
(see `benchmarks.extraction`), or what the rules for manuals keep.

Cross-validation leaves out a fifth of the pages, and of the manuals whole packages. What it prints is what `benchmarks.extraction`
measures, of texts as they are extracted: of plain pages by the rules, of the others by a model that did not see them.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import manuals
from benchmarks import pages as two_manuals
from benchmarks.extraction import (
    NAVIGATION_CLASSES,
    NAVIGATION_IDS,
    Score,
    by_phrases,
    claims_of_phrases,
    score,
    words,
)
from benchmarks.extraction_network import Example, fit
from benchmarks.report import write
from leanpipe.corpus.extract import html_blocks
from leanpipe.corpus.extract.block_features import (
    NEAR,
    Ancestors,
    element_tags,
    element_words,
    measure_blocks,
)
from leanpipe.corpus.extract.content_model import ContentModel
from leanpipe.corpus.extract.html_page import HtmlPage
from leanpipe.corpus.extract.main_text import PARSERS, ExtractConfig, body_of, extract_main_text, is_plain
from leanpipe.corpus.readers.encodings import decode

FOLDS = 5
MOST_BLOCKS = 1500  # of a page of a manual
PHRASE = 4.0  # how much a phrase weighs, against 1 of a block that both peers agree on
DISAGREED = 0.4


@dataclass
class Page:
    """A page as it is learnt from and measured by."""

    group: str
    """Where it is from: one package, or the web."""
    html: str
    texts: list[str]
    """Of its blocks."""
    example: Example
    phrases: dict[str, list[str]]
    peer: str = ""
    """What trafilatura finds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="where the weights go; without it only cross-validation")
    parser.add_argument("--no-validation", action="store_true")
    options = parser.parse_args()
    web, books = [*read_web(options.folder)], [*read_manuals()]
    print(f"{len(web)} pages of the web, {len(books)} of manuals", flush=True)
    if not options.no_validation:
        cross_validate(web, books)
    if options.out:
        np.savez_compressed(options.out, **fit([page.example for page in web + books]))


def cross_validate(web: list[Page], books: list[Page]) -> None:
    """Print what models find of the pages that they were not fitted on."""
    web = random.Random(3).sample(web, len(web))
    groups = sorted({page.group for page in books})
    random.Random(3).shuffle(groups)
    found: list[tuple[Page, str]] = []
    of_books: list[float] = []
    for fold in range(FOLDS):
        left_out = {*groups[fold::FOLDS]}
        seen = [page for number, page in enumerate(web) if number % FOLDS != fold]
        seen += [page for page in books if page.group not in left_out]
        model = ContentModel(fit([page.example for page in seen]))
        own = [(page, extract(model, page.html)) for page in web[fold::FOLDS]]
        print(f"fold {fold}: {of_phrases(own)}", flush=True)
        found += own
        unseen = [page for page in books if page.group in left_out]
        of_books += [f1_of_words(page, extract(model, page.html, plain=False)) for page in unseen]
    print(f"manuals through the network alone: F1 of words {np.mean(of_books):.4f}")
    peer = of_phrases([(page, page.peer) for page in web])
    write("extraction-unseen", claims_of_phrases("extraction of unseen pages", of_phrases(found), peer))


def extract(model: ContentModel, html: str, plain: bool = True) -> str:
    """What is found of a page with a model that was just fitted."""
    if plain and is_plain(html):
        return extract_main_text(html, ExtractConfig()).text
    page = HtmlPage(body_of(html))
    return page.render(model.find_own_blocks(page).blocks)


def of_phrases(found: Sequence[tuple[Page, str]]) -> Score:
    return by_phrases([text for _, text in found], [page.phrases for page, _ in found])


def f1_of_words(page: Page, found: str) -> float:
    own = "\n".join(
        text for text, target in zip(page.texts, page.example.target, strict=True) if target > 0.5
    )
    return score(words(found), words(own)).f1 if own else float(not found)


def read_web(folder: Path) -> Iterator[Page]:
    """Pages of the web, with their phrases."""
    for name, phrases in json.loads((folder / "phrases.json").read_text()).items():
        html = decode((folder / "pages" / name).read_bytes(), html=True).text
        if read := _read("web", html):
            page, _ = read
            page.phrases = phrases
            _as_peers_see_it(page)
            _as_phrases_say(page)
            yield page


def _as_peers_see_it(page: Page) -> None:
    page.peer, other = (
        PARSERS[method](page.html, ExtractConfig(method=method)).text
        for method in ("trafilatura", "resiliparse")
    )
    kept = [np.array(_kept(page.texts, found)) for found in (page.peer, other)]
    agreed = np.abs(kept[0] - kept[1]) < 0.5
    page.example.target = kept[0].astype(np.float32)
    page.example.weight = np.where(agreed, 1.0, DISAGREED) * _by_length(page.texts)


def _as_phrases_say(page: Page) -> None:
    target, weight = page.example.target, page.example.weight
    holding = {
        kind: [[n for n, text in enumerate(page.texts) if phrase in text] for phrase in those]
        for kind, those in page.phrases.items()
    }
    own = {block for blocks in holding["with"] for block in blocks}
    for blocks in filter(None, holding["with"]):
        best = max(blocks, key=lambda block: (target[block], len(page.texts[block])))
        target[best], weight[best] = 1, PHRASE
    for blocks in holding["without"]:
        others = [block for block in blocks if block not in own]
        target[others], weight[others] = 0, PHRASE


def _by_length(texts: list[str]) -> np.ndarray:
    return np.array([min(1.5, 0.3 + len(text) / 200) for text in texts])


def _kept(texts: list[str], found: str) -> list[float]:
    """Of each block, the share of its text that a peer has found."""
    whole = " ".join(found.replace("|", " ").split())
    lines = {" ".join(line.strip("- •|").split()) for line in found.split("\n")}
    return [_share(text, whole, lines) for text in texts]


def _share(text: str, whole: str, lines: set[str], probe: int = 40) -> float:
    text = " ".join(text.removeprefix("- ").replace(" | ", " ").split())
    if len(text) <= probe:
        return float(text in lines)
    probes = [text[at : at + probe] for at in range(0, len(text) - probe + 1, max(probe, len(text) // 6))]
    return sum(one in whole for one in probes) / len(probes)


def _read(group: str, html: str) -> tuple[Page, HtmlPage] | None:
    """A page whose blocks are measured, and of which nothing is known; None if it has none, or very many."""
    read = HtmlPage(body_of(html))
    number = len(read)
    if not 0 < number <= (MOST_BLOCKS if group != "web" else 1 << 30):
        return None
    ancestors = Ancestors(read)
    texts = [read.render(np.array([block])) for block in range(number)]
    far, near = _named(read, ancestors)
    measures = measure_blocks(read, ancestors).T
    example = Example(measures, far, near, np.zeros(number), np.ones(number))
    return Page(group, html, texts, example, {}), read


def _named(read: HtmlPage, ancestors: Ancestors) -> tuple[list[list[bytes]], list[list[bytes]]]:
    """Of each block the words of the elements around it: of all but the nearest, and of those."""
    found, tags = element_tags(read, ancestors)
    nearest = ancestors.starts[ancestors.around(read.first_tag, NEAR - 1)]
    far: list[list[bytes]] = [[] for _ in read.first_tag]
    near: list[list[bytes]] = [[] for _ in read.first_tag]
    for start, end, named in zip(found, ancestors.end_of[found], element_words(tags), strict=True):
        for block in np.flatnonzero((read.first_tag >= start) & (read.first_tag < end)):
            (near if start >= nearest[block] else far)[block] += set(named)
    return far, near


def read_manuals() -> Iterator[Page]:
    """Pages of manuals, of which it is known or taken what their text is."""
    rules, known = html_blocks.TagRules(), two_manuals.__name__
    for package, html in [(known, path.read_text(errors="replace")) for path in two_manuals.pages()[::5]] + [
        *manuals.pages()
    ]:
        read = _read(package, html)
        if not read:
            continue
        page, blocks = read
        text = html_blocks.extract_text(body_of(html), rules)
        own = np.array(_kept(page.texts, text) if package != known else [1.0] * len(page.texts)) > 0.5
        inside = [(_inside(blocks, start, end), tag) for start, end, tag in _elements(blocks)]
        if mains := [block for block, tag in inside if 'role="main"' in tag]:
            own = np.logical_or.reduce(mains)
        if package == known:
            for block, tag in inside:
                own &= ~(block & _is_navigation(tag))
        page.example.target = own.astype(np.float32)
        page.example.weight = 0.5 * _by_length(page.texts) + 0.5 * ~own
        yield page


def _elements(read: HtmlPage) -> Iterator[tuple[int, int, str]]:
    ancestors = Ancestors(read)
    for start, end in zip(ancestors.starts[:-1], ancestors.ends[:-1], strict=True):
        yield start, end, read.data[read.tags.start[start] : read.tags.end[start]].decode()


def _inside(read: HtmlPage, start: int, end: int) -> np.ndarray:
    return (read.first_tag >= start) & (read.first_tag < end)


def _is_navigation(tag: str) -> bool:
    id, classes = re.search(r' id="([^"]*)"', tag), re.search(r' class="([^"]*)"', tag)
    return bool(id and id[1] in NAVIGATION_IDS) or bool(
        classes and {*classes[1].split()} & NAVIGATION_CLASSES
    )


if __name__ == "__main__":
    main()
