"""What is measured of each block of a page, for a model to tell the page's own text from what stands around it.

Nothing here knows words of any language: lengths, links, punctuation, the elements in which a block lies and what share of the
page they hold, and the words that their classes and ids are made of.
"""

import re

import numpy as np

from leanpipe.corpus.extract.html_blocks import HtmlPage, Numbers
from leanpipe.corpus.extract.tags import ATTRIBUTED, CODE, NAMES

_OWN = (
    "p",
    "li",
    "h1",
    "h2",
    "h3",
    "td",
    "th",
    "div",
    "pre",
    "dd",
    "dt",
    "blockquote",
    "figcaption",
    "a",
    "section",
)
"""Tags of a block's innermost element that are told apart."""
_AROUND = (
    "article",
    "main",
    "aside",
    "header",
    "footer",
    "nav",
    "form",
    "ul",
    "table",
    "figure",
    "blockquote",
    "section",
    "p",
    "dl",
)
"""Elements of which it is told whether a block lies in them."""
_LEVELS = np.array([0, 1, 2, 4])[:, None]
"""How many elements up from a block it is measured what they hold."""
_SHARES = (0.4, 0.6, 0.8)
_PROSE = 60  # unlinked characters from which a block is prose
NEAR = 3
"""Elements up to which a class or id is near."""


# What a character is: its column among the counts.
_SPACE, _STOP, _COMMA, _DIGIT, _CAPITAL, _SIGN, _FOREIGN, _OTHER = range(8)
_CLASSES = np.full(256, _OTHER, dtype=np.uint8)
for _class, _characters in {
    _SPACE: b" \t\n\r\f", _STOP: b".!?", _COMMA: b",;", _DIGIT: b"0123456789",
    _CAPITAL: b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", _SIGN: b"|/&<>#*+=@_\\{}[]:", _FOREIGN: bytes(range(128, 256)),
}.items():  # fmt: skip
    _CLASSES[[*_characters]] = _class


class Ancestors:
    """Which elements of a page lie around a tag."""

    def __init__(self, page: HtmlPage):
        tags = page.tags
        self._number = len(tags.code) + 1
        self.depth = tags.delta.cumsum(dtype=np.int64)
        by_depth = self.depth * self._number + np.arange(len(self.depth))
        self._opens = np.sort(by_depth[tags.delta > 0])
        self.starts = np.append(self._opens % self._number, 0)
        """Tags that begin elements, by their depth, and the page's first."""
        self.ends = self._find_ends(np.sort(by_depth[tags.delta < 0]))
        """Where the same elements end."""

    def _find_ends(self, closes: Numbers) -> Numbers:
        last = self._number - 2
        if len(closes) == len(
            self._opens
        ):  # of the same depth the first beginning and the first end belong together
            return np.append(closes % self._number, last)
        closes = np.append(closes, -1)
        found = closes[closes[:-1].searchsorted(self._opens - self._number)]
        return np.append(
            np.where(found // self._number == self._opens // self._number - 1, found % self._number, last),
            last,
        )

    def end(self, start: Numbers) -> Numbers:
        """The tags that end the elements which such tags begin."""
        place = np.full(self._number, -1)
        place[self.starts[:-1]] = np.arange(len(self._opens))
        return self.ends[place[start]]

    def around(self, tag: Numbers, up: Numbers) -> Numbers:
        """The place among `starts` of the element so many levels up from the text after a tag: a row for each of `up`."""
        level = self.depth[tag] - up
        place = self._opens.searchsorted(level * self._number + tag, "right") - 1
        return np.where((place >= 0) & (self._opens[place] // self._number == level), place, -1)


def measure_blocks(page: HtmlPage, ancestors: Ancestors) -> Numbers:
    """A row of numbers for each block."""
    length = page.within(page.visible).astype(float)
    linked = page.within(page.linked)
    places = ancestors.around(page.first_tag, _LEVELS)
    columns = [
        *_text(page, length, linked),
        *_place(page, length, linked),
        *_containers(page, ancestors, places, length, linked),
    ]
    return np.concatenate([np.array(columns, dtype=np.float32).T, _elements(page, ancestors, places)], axis=1)


def _text(page: HtmlPage, length: Numbers, linked: Numbers) -> list[Numbers]:
    """What the text itself is like."""
    counts = _count_characters(page)
    words = np.maximum(counts[:, 8:].sum(axis=1), 1)
    short = counts[:, 16:].sum(axis=1)
    capitals = counts[:, 8 + _CAPITAL]
    counts = counts[:, :8] + counts[:, 8:16] + counts[:, 16:]
    code = page.tags.code
    links = page.within(np.cumsum((code == CODE["a"]) & (page.tags.delta > 0)))
    breaks = page.within(np.cumsum(code == CODE["br"]))
    images = page.within(np.cumsum(code == CODE["img"]))
    final = _CLASSES[page.text[_last_visible(page)]] == _STOP
    return [
        np.log1p(length) / 4,
        np.log1p(length - linked) / 4,
        np.log1p(words) / 3,
        np.minimum(words, 12) / 12,
        linked / np.maximum(length, 1),
        (linked > 0).astype(float),
        np.log1p(links),
        np.log1p(breaks),
        np.log1p(images),
        np.minimum(length / words, 15) / 8,
        capitals / words,
        np.minimum(short / words, 1),
        np.log1p(counts[:, _STOP]),
        np.log1p(counts[:, _COMMA]),
        counts[:, _DIGIT] / np.maximum(length, 1),
        np.minimum(counts[:, _SIGN], 5) / 5,
        counts[:, _FOREIGN] / np.maximum(length, 1),
        final.astype(float),
        page.items.astype(float),
    ]


def _count_characters(page: HtmlPage) -> Numbers:
    """How many characters of each class a block has: within words, at their beginnings, and at those of short words.

    Short are words of one to three characters without a capital: in most languages those that no sentence lacks.
    """
    kind = _CLASSES[page.text]
    space = kind == _SPACE
    begins = ~space
    begins[1:] &= space[:-1]
    soon = space.copy()
    soon[:-1] |= space[1:]
    soon[:-2] |= space[2:]
    soon[:-3] |= space[3:]
    column = kind + (begins.view(np.uint8) << 3) + ((begins & soon & (kind >= _FOREIGN)).view(np.uint8) << 3)
    number = len(page.first_tag)
    place = (np.arange(number) * 24).repeat(np.diff(page.text_end[page.last_tag], prepend=0))
    place += column[: len(place)]
    return np.bincount(place, minlength=24 * number).reshape(number, 24).astype(float)


def _last_visible(page: HtmlPage) -> Numbers:
    """Place in the text of each block's last character that is no space."""
    visible = np.flatnonzero(_CLASSES[page.text] != _SPACE)
    return visible[page.visible[page.last_tag] - 1]


_PARENTS = ("li", "td", "p", "blockquote", "body", "article")
_HEADS = ("h1", "h2", "h3", "h4", "h5", "h6")


def _one_of(*groups: tuple[str, ...]) -> Numbers:
    """A row for each code: 1 in the columns of the groups that its tag belongs to."""
    return np.array([[name in group for group in groups] for name in ("", *NAMES)], dtype=np.float32)


_AS_OWN = _one_of(*((name,) for name in _OWN), _HEADS)
_AS_PARENT = _one_of(*((name,) for name in _PARENTS))
_AS_AROUND = _one_of(*((name,) for name in _AROUND))
_IS_AROUND = _AS_AROUND.any(axis=1)


def _elements(page: HtmlPage, ancestors: Ancestors, places: Numbers) -> Numbers:
    """In which elements a block lies."""
    code = page.tags.code
    own, parent = code[ancestors.starts[places[:2]]]
    around = np.flatnonzero(_IS_AROUND[code])
    inside = (_AS_AROUND[code[around]] * page.tags.delta[around, None]).cumsum(axis=0)
    inside = np.concatenate([np.zeros((1, len(_AROUND)), dtype=np.float32), inside])
    inside = inside[around.searchsorted(page.first_tag, "right")]
    depth = np.minimum(ancestors.depth[page.first_tag, None], 40) / 10
    return np.concatenate(
        [_AS_OWN[own], _AS_PARENT[parent], np.minimum(inside, 2) / 2, depth], axis=1, dtype=np.float32
    )


def _place(page: HtmlPage, length: Numbers, linked: Numbers) -> list[Numbers]:
    """Where on the page a block stands, and what the page is like."""
    number = len(length)
    own = length - linked
    prose = own * (own >= _PROSE)
    before = np.cumsum(prose) - prose
    total = np.full(number, length.sum())
    every = prose.sum()
    whole = np.ones(number)
    return [
        np.arange(number) / number,
        before / max(every, 1),
        (before > 0).astype(float),
        (every - before - prose > 0).astype(float),
        np.log1p(before) / 4,
        np.log1p(every - before - prose) / 4,
        prose / max(every, 1),
        np.log1p(np.arange(number)) / 4,
        np.log1p(number - 1 - np.arange(number)) / 4,
        np.log1p(total) / 6,
        np.log1p(every) / 6 * whole,
        linked.sum() / np.maximum(total, 1),
        every / np.maximum(total, 1),
        np.log(number + 1) / 4 * whole,
    ]


def _containers(
    page: HtmlPage, ancestors: Ancestors, places: Numbers, length: Numbers, linked: Numbers
) -> list[Numbers]:
    """What the elements around a block hold of the page."""
    own = length - linked
    own = own * (own >= _PROSE)
    prose = np.zeros(len(page.tags.code))
    prose[page.last_tag] = own
    prose = np.cumsum(prose)
    total = max(prose[-1], 1.0)
    start, end = ancestors.starts[places], ancestors.ends[places]
    before = np.maximum(start - 1, 0)
    inside = page.visible[end] - page.visible[before]
    links = page.linked[end] - page.linked[before]
    share = (prose[end] - prose[before]) / total
    columns = [*(np.log1p(inside) / 5), *(links / np.maximum(inside, 1)), *share]
    return columns + _smallest_that_hold(page, ancestors, prose)


def _smallest_that_hold(page: HtmlPage, ancestors: Ancestors, prose: Numbers) -> list[Numbers]:
    """Whether a block lies in the smallest element that holds a share of the page's prose."""
    starts, ends = ancestors.starts, ancestors.ends
    held = prose[ends] - prose[np.maximum(starts - 1, 0)]
    holding = [np.flatnonzero(held >= share * prose[-1]) for share in _SHARES]
    deepest = [int(found[-2:][0]) if len(found) else -1 for found in holding]
    return [
        ((page.first_tag >= starts[one]) & (page.first_tag <= ends[one])).astype(float) for one in deepest
    ]


_SEPARATED = bytes(c if 97 <= c <= 122 else c + 32 if 65 <= c <= 90 else 32 for c in range(256))
_ATTRIBUTES = 120  # bytes of an element's tag that are looked at


def element_tags(page: HtmlPage, ancestors: Ancestors) -> tuple[Numbers, list[bytes]]:
    """The tags that begin elements with attributes and with text, as numbers and as they are written."""
    tags, starts = page.tags, ancestors.starts[:-1]
    attributed = ATTRIBUTED[tags.code[starts]] & (tags.end[starts] - tags.start[starts] > 12)
    filled = page.visible[ancestors.ends[:-1]] > page.visible[starts - 1]
    found = np.sort(starts[attributed & filled])
    start = tags.start[found]
    end = np.minimum(tags.end[found], start + _ATTRIBUTES)
    return found, [page.data[first:last] for first, last in zip(start.tolist(), end.tolist(), strict=True)]


def element_words(tag: bytes) -> list[bytes]:
    """The words, in small letters, that a tag and its attributes are made of."""
    return tag.translate(_SEPARATED).split()


_COMMENTS = re.compile(rb"\b(?:comments?|commentlist|disqus)\b")


def in_comments(page: HtmlPage) -> Numbers:
    """Whether a block stands in an element that is named as holding readers' comments."""
    ancestors = Ancestors(page)
    found, written = element_tags(page, ancestors)
    named = found[[bool(_COMMENTS.search(tag)) for tag in written]] if written else found
    change = np.zeros(len(page.tags.code) + 1, dtype=np.intp)
    np.add.at(change, named, 1)
    np.add.at(change, ancestors.end(named), -1)
    return change.cumsum()[page.first_tag] > 0
