"""Lines of printed pages to paragraphs: what was cut to fit the paper is put together again."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

HYPHEN = "\x02"
"""What PDFium writes for a hyphen that parts a word at the end of a line; the line's end is gone then."""
_EDGE = 2  # lines at the head and at the foot of a page that may be the same on others
_LEAST_PAGES = 3  # … on so many
_LEAST_SHARE = 0.05  # … and so much of all pages: a header may change with the chapter
_NUMBERED_SHARE = 0.2  # of all pages: so many must be numbered for their numbers to be known
_WIDE = 0.9  # quantile of the lengths of a page's lines
_FULL, _FULL_SENTENCE = (
    0.75,
    0.9,
)  # of that width: a line that goes on in the next, and if a sentence ends there
_LEAST_WIDTH = 40  # characters: shorter lines are those of a list or a table

_DIGITS = re.compile(r"\d+|\b[ivxlc]+\b")
_PAGE_NUMBER = re.compile(
    r"(?:\W*(?:page|seite|p\.|s\.)?\W*(?:\d{1,4}|[ivxlc]{1,7})(?:\s*(?:/|of|von)\s*\d{1,4})?\W*)",
    re.IGNORECASE,
)
_OUTER_NUMBERS = re.compile(r"\A\W{0,3}(\d{1,5})\b(?!\.\d)|(?<![\d.])(\d{1,5})\W{0,3}\Z")
_NEW = re.compile(  # an item, or a heading
    r"\s*(?:[^\w\s\"'“‘(\[«¿¡]\s|(?:\(\w{1,3}\)|\w{1,2}[.)]|\d{1,3}[.)]|\d+(?:\.\d+)+\.?)\s)"
)
_SENTENCE_END = re.compile(r"[.!?:…。！？][\"'”’)]*\Z")
_LEADER = re.compile(r"(?:\.[ \xa0]?){5,}\s*\w{1,5}\s*\Z")  # dots to a page's number: a table of contents
_PARTED = re.compile(rf"(\w+){HYPHEN}(\w+)")


def join_pages(pages: Sequence[str]) -> str:
    """The text of a document of these pages, a paragraph a line."""
    lines = [_lines(page) for page in pages]
    repeated = _repeated(lines)
    first = _first_number(lines)
    numbers = [None if first is None else first + at for at in range(len(lines))]
    kept = [list(_without(page, number, repeated)) for page, number in zip(lines, numbers, strict=True)]
    return _whole_words("\n".join(_paragraphs(kept if any(kept) else lines)))


def _lines(page: str) -> list[str]:
    return [
        line.rstrip() for line in page.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()
    ]


def _edges(page: Sequence[str]) -> Iterator[int]:
    """Where the lines stand that may be headers or footers."""
    return iter({*range(min(_EDGE, len(page))), *range(max(0, len(page) - _EDGE), len(page))})


def _shape(line: str) -> str:
    """The line whatever its page number is."""
    return _DIGITS.sub("#", line).strip()


def _repeated(pages: Sequence[Sequence[str]]) -> set[str]:
    """Shapes of the lines that stand at the edge of many pages."""
    counts = Counter(shape for page in pages for shape in {_shape(page[at]) for at in _edges(page)})
    least = max(_LEAST_PAGES, _LEAST_SHARE * len(pages))
    return {shape for shape, count in counts.items() if count >= least}


def _first_number(pages: Sequence[Sequence[str]]) -> int | None:
    """The number of the first page, by those that stand at the edges of pages; None if they are not numbered."""
    counts = Counter(
        first
        for number, page in enumerate(pages)
        for first in {value - number for at in _edges(page) for value in _outer_numbers(page[at])}
    )
    first, count = max(counts.items(), key=lambda item: item[1], default=(0, 0))
    return first if count >= max(_LEAST_PAGES, _NUMBERED_SHARE * len(pages)) else None


def _outer_numbers(line: str) -> Iterator[int]:
    """The numbers that a line begins and ends with."""
    return (int(before or after) for before, after in _OUTER_NUMBERS.findall(line))


def _without(page: Sequence[str], number: int | None, repeated: set[str]) -> Iterator[str]:
    """The lines of a page of that number but those that are no part of the text: at its edges, or of a table of contents."""
    edges = set(_edges(page))
    for at, line in enumerate(page):
        is_number = at in (0, len(page) - 1) and bool(_PAGE_NUMBER.fullmatch(line))
        is_running = at in edges and (_shape(line) in repeated or number in (*_outer_numbers(line),))
        if not is_number and not is_running and not _LEADER.search(line):
            yield line


def _paragraphs(pages: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines joined with those before them that were full. A paragraph may go on over the end of a page."""
    parts: list[str] = []
    goes_on = False
    for page in pages:
        wide = _width(page)
        for line in page:
            if parts and (not goes_on or _NEW.match(line)):
                yield " ".join(parts)
                parts = []
            parts.append(line.strip() if parts else line)
            goes_on = len(line) >= wide * (_FULL_SENTENCE if _SENTENCE_END.search(line) else _FULL)
    if parts:
        yield " ".join(parts)


def _width(page: Sequence[str]) -> float:
    """How many characters a page's wide lines have; none is wide where all are short."""
    lengths = sorted(len(line) for line in page)
    wide = lengths[min(len(lengths) - 1, int(_WIDE * len(lengths)))] if lengths else 0
    return wide if wide >= _LEAST_WIDTH else float("inf")


def _whole_words(text: str) -> str:
    """Words put together; a hyphen stays where the same two words are joined by one elsewhere, and nowhere without."""
    if HYPHEN not in text:
        return text
    words = set(re.findall(r"\w+(?:-\w+)*", text))

    def join(found: re.Match[str]) -> str:
        hyphenated, whole = f"{found[1]}-{found[2]}", found[1] + found[2]
        return hyphenated if hyphenated in words and whole not in words else whole

    return _PARTED.sub(join, text).replace(HYPHEN, "")
