"""`python -m benchmarks.fit_extraction FOLDER`: fit the model that finds a page's own text, and say what it finds of pages it did not see.

FOLDER holds pages of the web under `pages/`, and `phrases.json`: of each page phrases that must (`with`) and must not
(`without`) be in its text, as a person said (the form of trafilatura's evaluation). Manuals are fetched from Debian by name.

What a block is taken to be: what a phrase in it says; else, with less weight, whether trafilatura and resiliparse keep it. Of
manuals: whether it stands in the element that is marked as main, or outside the navigation of the two whose markup is known
(see `benchmarks.extraction`), or what the rules kept that this model took the place of (of commit 3e675f2).

Cross-validation leaves out a fifth of the pages, and of the manuals whole packages. The figures are counted over all phrases.
"""

import argparse
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import pages as manuals
from benchmarks.extraction import NAVIGATION_CLASSES, NAVIGATION_IDS
from benchmarks.extraction_network import Example, fit, predict, save
from leanpipe.corpus.extract.block_features import (
    NEAR,
    Ancestors,
    element_tags,
    element_words,
    measure_blocks,
)
from leanpipe.corpus.extract.html_blocks import HtmlPage
from leanpipe.corpus.extract.main_text import ExtractConfig, body_of, extract_main_text
from leanpipe.corpus.readers.encodings import decode

FOLDS = 5
RULES = "3e675f2"
OF_EACH = 14  # pages of a manual
LARGEST = 120_000  # bytes of such a page
MOST_BLOCKS = 1500
MANUALS = [
    "apache2-doc",
    "aptitude-doc-en",
    "cmake-doc",
    "debian-policy",
    "debian-reference-en",
    "developers-reference",
    "docbook-xsl-doc-html",
    "exim4-doc-html",
    "gimp-help-en",
    "git-doc",
    "graphviz-doc",
    "libglib2.0-doc",
    "libgtk-3-doc",
    "libxml2-doc",
    "lilypond-doc-html",
    "maxima-doc",
    "nodejs-doc",
    "octave-doc",
    "openjdk-17-doc",
    "python-django-doc",
    "python-flask-doc",
    "python-jinja2-doc",
    "python-pandas-doc",
    "python-requests-doc",
    "python-sqlalchemy-doc",
    "python-werkzeug-doc",
    "rust-doc",
    "slime",
    "sphinx-doc",
    "sqlite3-doc",
    "varnish-doc",
    "vim-doc",
]
"""Debian packages of many hands and many tools. Python's own documentation is left out: it is for checking."""
OTHER_LANGUAGES = re.compile(r"[/.](?:ca|cs|de|es|fr|hu|it|ja|ko|nl|pt-br|tr|zh-cn)[/.]")
PHRASE = 4.0  # how much a phrase weighs, against 1 of a block that both peers agree on
DISAGREED = 0.4


@dataclass
class Page:
    """A page as it is learnt from and measured by."""

    name: str
    group: str
    """Where it is from: one package, or the web."""
    texts: list[str]
    example: Example
    phrases: list[tuple[bool, list[int]]] = field(default_factory=list)
    """Whether a phrase must be in the text, and the blocks that hold it."""
    scores: np.ndarray | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--out", type=Path, help="where to write the weights; cross-validation alone if left out"
    )
    parser.add_argument("--no-validation", action="store_true")
    options = parser.parse_args()
    web, books = [*read_web(options.folder)], [*read_manuals()]
    print(f"{len(web)} pages of the web, {len(books)} of manuals", flush=True)
    if not options.no_validation:
        cross_validate(web, books)
    if options.out:
        save(fit([page.example for page in web + books]), options.out)


def cross_validate(web: list[Page], books: list[Page]) -> None:
    """Print, for several thresholds, what models find of the pages that they were not fitted on."""
    web = random.Random(3).sample(web, len(web))
    groups = sorted({page.group for page in books})
    random.Random(3).shuffle(groups)
    for fold in range(FOLDS):
        left_out = {*groups[fold::FOLDS]}
        seen = [page for number, page in enumerate(web) if number % FOLDS != fold]
        seen += [page for page in books if page.group not in left_out]
        network = fit([page.example for page in seen])
        for page in [*web[fold::FOLDS], *(page for page in books if page.group in left_out)]:
            page.scores = predict(network, page.example)
        print(fold, report(web[fold::FOLDS], 0), flush=True)
    for threshold in (-1, -0.5, -0.25, 0, 0.25, 0.5, 1):
        print(
            f"from {threshold:5}: web {report(web, threshold)}; manuals, F1 of words {manual_f1(books, threshold):.4f}"
        )


def report(web: Sequence[Page], threshold: float) -> str:
    """Precision, recall and their F over all phrases."""
    count: Counter[tuple[bool, bool]] = Counter()
    for page in web:
        assert page.scores is not None
        for wanted, blocks in page.phrases:
            count[wanted, bool((page.scores[blocks] > threshold).any())] += 1
    precision = count[True, True] / (count[True, True] + count[False, True])
    recall = count[True, True] / (count[True, True] + count[True, False])
    return f"P {precision:.4f} R {recall:.4f} F {2 * precision * recall / (precision + recall):.4f}"


def manual_f1(books: Sequence[Page], threshold: float) -> float:
    """Mean F1 of the words that are kept, against those of the blocks that are taken to be text."""
    scores = []
    for page in books:
        assert page.scores is not None
        kept, own = (
            Counter(word for text, one in zip(page.texts, which, strict=True) if one for word in text.split())
            for which in (page.scores > threshold, page.example.target > 0.5)
        )
        if own:
            scores.append(2 * (kept & own).total() / (kept.total() + own.total()))
    return float(np.mean(scores))


def read_web(folder: Path) -> Iterator[Page]:
    """Pages of the web, with their phrases."""
    for name, phrases in json.loads((folder / "phrases.json").read_text()).items():
        html = decode((folder / "pages" / name).read_bytes(), html=True).text
        read = _read(name, "web", html)
        if not read:
            continue
        page, _ = read
        _as_peers_see_it(page, html)
        for wanted in (True, False):
            for phrase in phrases["with" if wanted else "without"]:
                page.phrases.append((wanted, [n for n, text in enumerate(page.texts) if phrase in text]))
        _as_phrases_say(page)
        yield page


def _as_peers_see_it(page: Page, html: str) -> None:
    kept = [
        np.array(_kept(page.texts, extract_main_text(html, ExtractConfig(method=method)).text))
        for method in ("trafilatura", "resiliparse")
    ]
    agreed = np.abs(kept[0] - kept[1]) < 0.5
    page.example.target = kept[0].astype(np.float32)
    page.example.weight = np.where(agreed, 1.0, DISAGREED) * _by_length(page.texts)


def _as_phrases_say(page: Page) -> None:
    target, weight = page.example.target, page.example.weight
    own = {block for wanted, blocks in page.phrases if wanted for block in blocks}
    for wanted, blocks in page.phrases:
        if wanted and blocks:
            best = max(blocks, key=lambda block: (target[block], len(page.texts[block])))
            target[best], weight[best] = 1, PHRASE
        elif not wanted:
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


def _read(name: str, group: str, html: str) -> tuple[Page, HtmlPage] | None:
    """A page whose blocks are measured, and of which nothing is known; None if it has none, or very many."""
    read = HtmlPage(body_of(html))
    number = len(read.first_tag)
    if not 0 < number <= (MOST_BLOCKS if group != "web" else 1 << 30):
        return None
    ancestors = Ancestors(read)
    texts = [read.render(np.array([block])) for block in range(number)]
    far, near = _named(read, ancestors)
    measures = measure_blocks(read, ancestors)
    return Page(name, group, texts, Example(measures, far, near, np.zeros(number), np.ones(number))), read


def _named(read: HtmlPage, ancestors: Ancestors) -> tuple[list[list[bytes]], list[list[bytes]]]:
    """Of each block the words of the elements around it: of all but the nearest, and of those."""
    found, tags = element_tags(read, ancestors)
    nearest = ancestors.starts[ancestors.around(read.first_tag, NEAR - 1)]
    far: list[list[bytes]] = [[] for _ in read.first_tag]
    near: list[list[bytes]] = [[] for _ in read.first_tag]
    for start, end, tag in zip(found, ancestors.end(found), tags, strict=True):
        for block in np.flatnonzero((read.first_tag >= start) & (read.first_tag < end)):
            (near if start >= nearest[block] else far)[block] += set(element_words(tag))
    return far, near


def read_manuals() -> Iterator[Page]:
    """Pages of manuals, of which it is known or taken what their text is."""
    rules = _rules_of_then()
    for package, html in _manual_pages():
        read = _read(package, package, html)
        if not read:
            continue
        page, blocks = read
        own = _kept(page.texts, rules(html)) if package != manuals.__name__ else [1.0] * len(page.texts)
        own = np.array(own) > 0.5
        inside = [(_inside(blocks, start, end), tag) for start, end, tag in _elements(blocks)]
        if mains := [block for block, tag in inside if 'role="main"' in tag]:
            own = np.logical_or.reduce(mains)
        if package == manuals.__name__:
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


def _manual_pages() -> Iterator[tuple[str, str]]:
    for path in manuals.pages()[::5]:
        yield manuals.__name__, path.read_text(errors="replace")
    for package in MANUALS:
        dice, chosen = random.Random(package), []
        for number, data in enumerate(_html_of(package)):
            if len(chosen) < OF_EACH:
                chosen.append(data)
            elif (place := dice.randrange(number + 1)) < OF_EACH:
                chosen[place] = data
        for data in chosen:
            yield package, data.decode(errors="replace")


def _html_of(package: str) -> Iterator[bytes]:
    """The pages in a Debian package, which is fetched and never installed."""
    folder = manuals.PAGES / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    if not [*folder.glob(f"{package}_*.deb")]:
        subprocess.run(["apt-get", "-qq", "download", package], cwd=folder, check=True)
    (archive,) = folder.glob(f"{package}_*.deb")
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        for member in files:
            is_page = (
                member.isfile() and member.name.endswith((".html", ".htm")) and 1500 < member.size < LARGEST
            )
            if is_page and not OTHER_LANGUAGES.search(member.name):
                yield files.extractfile(member).read()  # type: ignore[union-attr]


def _rules_of_then() -> Callable[[str], str]:
    """The rules that this model took the place of, as the history has them."""
    for name in ("boilerplate", "html_blocks"):
        path = f"{RULES}:leanpipe/corpus/extract/{name}.py"
        source = subprocess.run(["git", "show", path], check=True, capture_output=True, text=True).stdout
        module = types.ModuleType(f"rules_of_then.{name}")
        sys.modules[module.__name__] = module
        exec(
            source.replace("leanpipe.corpus.extract.boilerplate", "rules_of_then.boilerplate"),
            module.__dict__,
        )
    tags = module.TagRules()
    return lambda html: module.extract_text(body_of(html), tags)


if __name__ == "__main__":
    main()
