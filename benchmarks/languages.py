"""`python -m benchmarks.languages`: repairing text, and telling its language, in the 26 languages of the Debian handbook.

Repair: `normalize` against `ftfy.fix_text` with the same settings on the same texts, and how many texts come out the
same. Language: `detect_language` on a sample of each page against py3langid on all of it; right is the language of the page's
folder. Paragraphs that a translation left in English are taken out first. One core, medians of runs in turns.
"""

import os
import unicodedata
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}

from benchmarks.pages import folders
from benchmarks.report import claim, interleaved, write
from leanpipe.corpus import normalize as module
from leanpipe.corpus.extract.main_text import ExtractConfig, extract_main_text
from leanpipe.corpus.filters.language import _identifier, detect_language
from leanpipe.corpus.normalize import normalize

SAMPLE = 240  # characters
PAGES = 40  # per language
REPEATS = 3
CODES = {"nb": "no"}  # what py3langid calls them


def main() -> None:
    texts = by_language(folders()[0].parent)
    rows = [row for language in ("en", "fr", "ru", "ja") for row in repair(language, texts[language])]
    rows += language(texts)
    write("languages", rows)


def by_language(handbook: Path) -> dict[str, list[str]]:
    """Texts of pages by ISO code, without the paragraphs that are still in English."""
    english = {pair for text in extracted(handbook / "en-US") for pair in pairs(text)}
    texts: dict[str, list[str]] = {}
    for folder in sorted(handbook.iterdir()):
        code = CODES.get(folder.name[:2], folder.name[:2])
        for text in extracted(folder):
            texts.setdefault(code, []).append(text if code == "en" else translated(text, english))
    return {code: [text for text in several if len(text) > 500] for code, several in texts.items()}


def extracted(folder: Path) -> list[str]:
    pages = sorted(folder.glob("*.html"))
    config = ExtractConfig()
    return [
        extract_main_text(page.read_text(errors="replace"), config).text
        for page in pages[:: len(pages) // PAGES]
    ]


def translated(text: str, english: set[tuple[str, str]]) -> str:
    """The paragraphs of which few pairs of words stand in the English edition too."""
    return "\n\n".join(
        paragraph
        for paragraph in text.split("\n\n")
        if len(paragraph) > 40
        and sum(pair in english for pair in pairs(paragraph)) < len(pairs(paragraph)) / 5
    )


def pairs(text: str) -> list[tuple[str, str]]:
    words = text.lower().split()
    return list(pairwise(words))


def repair(code: str, texts: list[str]) -> list[dict[str, Any]]:
    import ftfy

    config = module._ftfy_config()
    size = sum(len(text.encode()) for text in texts) / 1e6
    runs = [partial(each, normalize, texts), partial(each, partial(ftfy.fix_text, config=config), texts)]
    ours, peer = (size / seconds for seconds in interleaved(runs, REPEATS))
    same = sum(module._repair(text) == ftfy.fix_text(text, config) for text in texts)
    return [
        claim(f"normalize, {code}", ours, peer, "MB/s", 5),
        claim(f"repaired as by ftfy, {code}", same, len(texts), "texts", 1),
    ]


def language(texts: dict[str, list[str]]) -> list[dict[str, Any]]:
    pages = [(code, text) for code, several in texts.items() for text in several]
    print(f"{len(pages)} pages in {sum(map(bool, texts.values()))} languages")
    whole = _identifier().classify
    ours = sum(detect_language(text, SAMPLE) == code for code, text in pages) / len(pages)
    peer = sum(whole(unicodedata.normalize("NFC", text))[0] == code for code, text in pages) / len(pages)
    some = [text for _, text in pages[::5]]
    runs = [partial(each, partial(detect_language, sample=SAMPLE), some), partial(each, whole, some)]
    seconds, peer_seconds = (taken / len(some) for taken in interleaved(runs, REPEATS))
    return [
        claim("language, share told rightly", ours, peer, "", 1),
        claim("language, time per page", seconds * 1e3, peer_seconds * 1e3, "ms", 0.2, at_most=True),
    ]


def each(function: Any, texts: list[str]) -> None:
    for text in texts:
        function(text)


if __name__ == "__main__":
    main()
