"""What is measured of each block of a page, for a model to tell the page's own text from what stands around it.

Nothing here knows words of any language: lengths, links, punctuation, the elements in which a block lies and what share of the
page they hold, and the words that their classes and ids are made of. Numpy takes a microsecond for a call, and a page has few
blocks: what is done to many measures is done to all of them at once.
"""

import re
from math import log1p

import numpy as np

from leanpipe.corpus.extract.html_page import CAPITAL, COMMA, DIGIT, FOREIGN, SIGN, SPACE, STOP, HtmlPage
from leanpipe.corpus.extract.tags import ATTRIBUTED, CODE, NAMES, Numbers

_OWN = "p li h1 h2 h3 td th div pre dd dt blockquote figcaption a section"
"""Tags of a block's innermost element that are told apart."""
_HEADS = "h1 h2 h3 h4 h5 h6"
_PARENTS = "li td p blockquote body article"
"""Tags of the element around that one which are."""
_AROUND = "article main aside header footer nav form ul table figure blockquote section p dl"
"""Elements of which it is told whether a block lies in them."""
_LEVELS = np.array([0, 1, 2, 4])[:, None]
"""How many elements up from a block it is measured what they hold."""
_SHARES = np.array([[0.4], [0.6], [0.8]])
_PROSE = 60  # unlinked characters from which a block is prose
NEAR = 3
"""Elements up to which a class or id is near."""


class Ancestors:
    """Which elements of a page lie around a tag."""

    def __init__(self, page: HtmlPage):
        tags = page.tags
        number = len(tags.code)
        self._number = number + 1
        self.depth = tags.delta.cumsum(dtype=np.int64)
        by_depth = self.depth * self._number + np.arange(number)
        self._opens = by_depth[tags.delta > 0]
        self._opens.sort()
        self.starts: Numbers = np.concatenate([self._opens % self._number, [0]])
        """Tags that begin elements, by their depth, and the page's first."""
        closes = by_depth[tags.delta < 0]
        closes.sort()
        self.ends = self._find_ends(closes)
        """Where the same elements end."""
        self.end_of: Numbers = np.full(self._number, number - 1)
        """Of each tag that begins an element: where that ends."""
        self.end_of[self.starts[:-1]] = self.ends[:-1]

    def _find_ends(self, closes: Numbers) -> Numbers:
        last = self._number - 2
        if len(closes) == len(
            self._opens
        ):  # of the same depth the first beginning and the first end belong together
            return np.concatenate([closes % self._number, [last]])
        closes = np.concatenate([closes, [-1]])
        found = closes[closes[:-1].searchsorted(self._opens - self._number)]
        is_own = found // self._number == self._opens // self._number - 1
        return np.concatenate([np.where(is_own, found % self._number, last), [last]])

    def around(self, tag: Numbers, up: Numbers | int) -> Numbers:
        """The place among `starts` of the element so many levels up from the text after a tag: a row for each of `up`."""
        if not len(self._opens):
            return np.full(np.broadcast(tag, up).shape, -1)
        level = self.depth[tag] - up
        place = self._opens.searchsorted(level * self._number + tag, "right") - 1
        place[(place >= 0) & (self._opens[place] // self._number != level)] = -1
        return place


def measure_blocks(page: HtmlPage, ancestors: Ancestors) -> Numbers:
    """A column of numbers for each block."""
    length, linked = page.within(np.array([page.visible, page.linked]))
    own = length - linked
    prose = own * (own >= _PROSE)
    places = ancestors.around(page.first_tag, _LEVELS)
    counts, shares, flags = _text(page, length, linked)
    held = _containers(page, ancestors, places, prose)
    before = prose.cumsum() - prose
    after = before[-1] + prose[-1] - before - prose
    number = len(length)
    place: Numbers = np.arange(number)
    sums = [*counts, length, own, before, after, place, number - 1 - place, *held[0]]
    total, every = int(length.sum()), int(prose.sum())
    whole = np.array(
        [log1p(total), log1p(every), log1p(number), linked.sum() / total, every / total], dtype=np.float32
    )
    return np.concatenate(
        [
            np.log1p(np.array(sums, dtype=np.float32)),
            shares,
            np.array([place, before, prose], dtype=np.float32)
            / np.array([[number], [max(every, 1)], [max(every, 1)]], dtype=np.float32),
            np.array([*flags, before > 0, after > 0, *held[2]], dtype=np.float32),
            held[1],
            _elements(page, ancestors, places),
            np.repeat(whole[:, None], number, axis=1),
        ]
    )


def _packed(*kinds: int) -> Numbers:
    """What a character adds to four counts in one number, 16 bits for each."""
    return np.array([sum((k == kind) << 16 * n for n, kind in enumerate(kinds)) for k in range(8)])


# What a character adds, by its kind, whether it begins a word (8), and whether that is short and without a capital (16).
_SIGNS = np.tile(_packed(COMMA, DIGIT, SIGN, FOREIGN), 4)
_WORDS = np.tile(_packed(STOP), 4)
_WORDS[8:] += 1 << 16
_WORDS[16:] += 1 << 32
_WORDS[[8 + CAPITAL, 24 + CAPITAL]] += 1 << 48
_SHIFTS: Numbers = (np.arange(4) * 16)[:, None]
_EVENTS: Numbers = np.zeros(len(NAMES) + 1, dtype=np.int64)
_EVENTS[[CODE["a"], CODE["br"], CODE["img"]]] = (1, 1 << 16, 1 << 32)


def _text(page: HtmlPage, length: Numbers, linked: Numbers) -> tuple[list[Numbers], Numbers, list[Numbers]]:
    """What the text itself is like: counts, shares and flags."""
    words, signs = _count_characters(page)
    stops, word, short, capitals = (words >> _SHIFTS) & 0xFFFF
    commas, digits, odd, foreign = (signs >> _SHIFTS) & 0xFFFF
    events: Numbers = np.zeros(len(page.tags.code) + 1, dtype=np.int64)
    (_EVENTS[page.tags.code] * (page.tags.delta >= 0)).cumsum(out=events[1:])
    links, breaks, images = (page.within(events) >> _SHIFTS[:3]) & 0xFFFF
    least = np.maximum(word, 1)
    above = np.array([linked, digits, foreign, length, short, capitals, np.minimum(odd, 5)], dtype=np.float32)
    below = np.array([length, length, length, 8 * least, least, least, np.full(len(length), 5)])
    last = page.kinds[page.visible_at.searchsorted(page.visible[page.until_tag]) - 1]
    shares = np.minimum(above / below.astype(np.float32), 2)
    flags = [linked > 0, last == STOP, page.items]
    return [stops, word, commas, links, breaks, images], shares, flags


def _count_characters(page: HtmlPage) -> Numbers:
    """What the characters of each block add up to, in two rows of `_WORDS` and `_SIGNS`.

    Short are words of one to three characters without a capital: in most languages those that no sentence lacks.
    """
    kinds = page.kinds
    space = kinds == SPACE
    begins = ~space
    begins[1:] &= space[:-1]
    soon = space.copy()
    soon[:-1] |= space[1:]
    soon[:-2] |= space[2:]
    soon[:-3] |= space[3:]
    soon &= begins & (kinds >= FOREIGN)
    column = kinds + (begins.view(np.uint8) << 3)
    column += soon.view(np.uint8) << 3
    starts = page.text_end[
        page.first_tag
    ]  # between two blocks there is nothing but white space, which adds nothing
    return np.array([np.add.reduceat(added.take(column), starts) for added in (_WORDS, _SIGNS)])


def _one_of(*groups: str) -> Numbers:
    """A column for each code: 1 in the rows of the groups that its tag belongs to."""
    return np.array([[name in group.split() for name in ("", *NAMES)] for group in groups], dtype=np.float32)


_AS_OWN = _one_of(*_OWN.split(), _HEADS)
_AS_PARENT = _one_of(*_PARENTS.split())
_AS_AROUND = _one_of(*_AROUND.split()).astype(np.int32)
_IS_AROUND = _AS_AROUND.any(axis=0)


def _elements(page: HtmlPage, ancestors: Ancestors, places: Numbers) -> Numbers:
    """In which elements a block lies."""
    code = page.tags.code
    own, parent = code[ancestors.starts[places[:2]]]
    around = _IS_AROUND[code].nonzero()[0]
    inside: Numbers = np.zeros((len(_AS_AROUND), len(around) + 1), dtype=np.int32)
    (_AS_AROUND[:, code[around]] * page.tags.delta[around]).cumsum(axis=1, out=inside[:, 1:])
    inside = inside[:, around.searchsorted(page.first_tag, "right")].astype(np.float32)
    depth = ancestors.depth[None, page.first_tag].astype(np.float32)
    return np.concatenate(
        [_AS_OWN[:, own], _AS_PARENT[:, parent], np.minimum(inside, 2), np.minimum(depth, 40)]
    )


def _containers(
    page: HtmlPage, ancestors: Ancestors, places: Numbers, own: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    """What the elements around a block hold: text; shares of links and of the page's prose; whether they are the smallest that hold much of it."""
    added: Numbers = np.zeros(len(page.tags.code), dtype=np.int64)
    added[page.until_tag - 1] = own
    prose: Numbers = np.zeros(len(added) + 1, dtype=np.int64)
    added.cumsum(out=prose[1:])
    starts, ends = ancestors.starts, ancestors.ends
    start, end = starts[places], ends[places]
    sums = np.array([page.visible, page.linked, prose])
    inside, links, share = sums[:, end] - sums[:, start]
    shares = np.concatenate([links / np.maximum(inside, 1), share / max(prose[-1], 1)], dtype=np.float32)

    # The deepest elements that hold a share.
    held = (prose[ends] - prose[starts]) >= _SHARES * prose[-1]
    held[:, -1] = False  # the page, if no element does
    deepest = held.shape[1] - 1 - held[:, ::-1].argmax(axis=1)
    first, last = starts[deepest][:, None], ends[deepest][:, None]
    return inside, shares, (page.first_tag >= first) & (page.first_tag <= last)


_SEPARATED = bytes(c if 97 <= c <= 122 or not c else c + 32 if 65 <= c <= 90 else 32 for c in range(256))
"""Letters as small ones, and NUL, which no parser lets through; spaces for all else."""
_ATTRIBUTES = 120  # bytes of an element's tag that are looked at


def element_tags(page: HtmlPage, ancestors: Ancestors) -> tuple[Numbers, list[bytes]]:
    """The tags that begin elements with attributes and with text, as numbers and as they are written."""
    tags = page.tags
    said = ATTRIBUTED[tags.code] & (tags.delta > 0) & (tags.end - tags.start > 12)
    found = said.nonzero()[0]
    found = found[page.visible[ancestors.end_of[found]] > page.visible[found]]
    start = tags.start[found]
    end = np.minimum(tags.end[found], start + _ATTRIBUTES)
    data = page.data
    return found, [data[first:last] for first, last in zip(start.tolist(), end.tolist(), strict=True)]


def element_words(tags: list[bytes]) -> list[list[bytes]]:
    """The words, in small letters, that each of the tags and its attributes are made of."""
    return [words.split() for words in b"\0".join(tags).translate(_SEPARATED).split(b"\0")]


_COMMENTS = re.compile(rb"\b(?:comments?|commentlist|disqus)\b")


def in_comments(page: HtmlPage) -> Numbers:
    """Whether a block stands in an element that is named as holding readers' comments."""
    ancestors = Ancestors(page)
    found, written = element_tags(page, ancestors)
    named = found[[bool(_COMMENTS.search(tag)) for tag in written]] if written else found
    change: Numbers = np.zeros(len(page.tags.code) + 1, dtype=np.intp)
    np.add.at(change, named, 1)
    np.add.at(change, ancestors.end_of[named], -1)
    return change.cumsum()[page.first_tag] > 0
