"""Which blocks of a page are its own text: small convolutional networks over their sequence, in numpy, and the mean of what they say.

They were fitted by `benchmarks/fit_extraction.py` on pages of the web with phrases that a person had said are, or are not, text of
the page, and on manuals. Like Web2Text (Vogels et al. 2018, "Web2Text: Deep Structured Boilerplate Removal") they see a block
together with its neighbors; besides, they see the means and maxima of the whole page.
"""

from functools import cache
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leanpipe.corpus.extract.block_features import (
    NEAR,
    Ancestors,
    element_tags,
    element_words,
    in_comments,
    measure_blocks,
)
from leanpipe.corpus.extract.html_page import HtmlPage
from leanpipe.corpus.extract.tags import Numbers

WEIGHTS = Path(__file__).with_name("content_model.npz")
CLIP = 6.0
"""Deviations from the mean beyond which a measure says no more."""
WIDTH = 5
"""Blocks that a convolution sees at once."""
DILATION = 4
"""Of every so many blocks the second convolution sees one."""
_UNSURE = 1.0  # a score nearer to 0 than this is right three times out of four
_UNSURE_SHARE = 0.25  # of a page's text that may have such scores
_NEARLY = -1.0
_SMALL_GAP = 2
_COMMENT_LINKED = (
    0.3  # a comment has fewer links than this: the others are its author's name, "reply" and the like
)
_REMEMBERED = 20_000  # tags of which the words are known
_UNIT = 1 << 16  # what 1 is in sums over words


class OwnBlocks(NamedTuple):
    """What of a page is its own text."""

    blocks: Numbers
    """Numbers of the blocks."""
    unsure: bool
    """Whether a good part of the page may be its own text as well as not."""


class _WordSums(dict[bytes, int]):
    """What the words of tags add up to, remembered: the place of each tag among the rows."""

    def __init__(self, words: Numbers, vocabulary: dict[bytes, int]):
        super().__init__()
        # The last row is nothing, for words that are not known.
        self._words = np.concatenate([words, np.zeros_like(words[:1])])
        self._number = vocabulary
        self.rows: Numbers = np.zeros((_REMEMBERED, words.shape[1]), dtype=np.int32)

    def places(self, tags: list[bytes]) -> list[int]:
        """The row of each tag."""
        if len(self) + len(tags) > _REMEMBERED:
            self.clear()
        if new := [tag for tag in dict.fromkeys(tags) if tag not in self]:
            self._add(new)
        return [*map(self.__getitem__, tags)]

    def _add(self, tags: list[bytes]) -> None:
        number, unknown = self._number.get, len(self._words) - 1
        found = [{number(word, unknown) for word in words} or {unknown} for words in element_words(tags)]
        starts = [0, *accumulate(map(len, found[:-1]))]
        first, until = len(self), len(self) + len(tags)
        while until > len(self.rows):  # a page may have more tags than are remembered
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        self.rows[first:until] = np.add.reduceat(self._words[[*chain.from_iterable(found)]], starts, axis=0)
        self.update(zip(tags, range(first, until), strict=True))


class ContentModel:
    """The networks and their vocabulary. Each array of weights has a row for each of the networks."""

    def __init__(self, weights: dict[str, Numbers]):
        shared = ("vocabulary", "mean", "scale")
        w = self._w = {name: one.astype(np.float32) for name, one in weights.items() if name not in shared}
        self._vocabulary = {bytes(word): number for number, word in enumerate(weights["vocabulary"])}
        # Sums of whole numbers are exact, and numpy makes them ten times as fast as those of fractions.
        words = np.concatenate([*w["far"], *w["near"]], axis=1)
        self._words = np.rint(words * _UNIT).astype(np.int32)
        # To scale what is measured is to scale the first layer.
        mean, scale = weights["mean"], weights["scale"]
        self._low, self._high = (mean - CLIP / scale)[:, None], (mean + CLIP / scale)[:, None]
        self._measured = np.concatenate([*w["c1.w"][:, :, : len(mean)]]) * scale
        self._named = w["c1.w"][:, :, len(mean) :] / _UNIT
        w["c1.b"] = w["c1.b"] - (self._measured @ mean).reshape(w["c1.b"].shape)
        self._sums = _WordSums(self._words, self._vocabulary)

    def find_own_blocks(self, page: HtmlPage, *, comments: bool = False) -> OwnBlocks:
        """Tell which blocks of a page are its own text. Readers' comments are none, unless they are asked for."""
        if not len(page):
            return OwnBlocks(page.first_tag, False)
        score = self.score(page)
        length = page.within(page.visible)
        unsure = bool(length[np.abs(score) < _UNSURE].sum() > _UNSURE_SHARE * length.sum())
        own = _without_gaps(score, page.rows)
        if comments:
            own |= in_comments(page) & (page.within(page.linked) < _COMMENT_LINKED * length)
        return OwnBlocks(own.nonzero()[0], unsure)

    def score(self, page: HtmlPage) -> Numbers:
        """Log odds that a block is the page's own text, from which a block is kept that has more than 0."""
        w = self._w
        ancestors = Ancestors(page)
        measures = measure_blocks(page, ancestors)
        np.maximum(measures, self._low, out=measures)
        np.minimum(measures, self._high, out=measures)
        number = measures.shape[1]
        members, hidden = w["c1.b"].shape
        named = self._names(page, ancestors).reshape(members, -1, number)
        one = (self._measured @ measures).reshape(members, hidden, number)
        one = _relu(one + self._named @ named, w["c1.b"][:, :, None])
        whole = np.concatenate([one.mean(axis=2), one.max(axis=2)], axis=1)[:, :, None]
        whole = _relu(w["g.w"] @ whole, w["g.b"][:, :, None])
        two = _relu(w["c2.w"] @ _neighbors(one, 1), w["c2.b"][:, :, None] + whole)
        three = _relu(w["c3.w"] @ _neighbors(two, DILATION), w["c3.b"][:, :, None])
        odds = w["o.w"][:, None] @ np.concatenate([one, two, three], axis=1)
        return (odds[:, 0] + w["o.b"][:, None]).mean(axis=0)

    def _names(self, page: HtmlPage, ancestors: Ancestors) -> Numbers:
        """What the names of the elements around each block say: the sum over them, the nearest ones weighted otherwise."""
        found, tags = element_tags(page, ancestors)
        known = self._sums.places(tags)

        # Each element adds its words where it begins, and takes them away where it ends.
        size = self._words.shape[1] // 2
        sums: Numbers = np.zeros((2 * size, len(page.tags.code) + 1), dtype=np.int32)
        added = self._sums.rows[known].T
        sums[:, found + 1] = added
        sums[:, ancestors.end_of[found] + 1] -= added
        sums.cumsum(axis=1, out=sums)
        near = ancestors.starts[ancestors.around(page.first_tag, NEAR - 1)]
        at, before = sums[:, page.first_tag + 1], sums[:, near]
        return (before[:size] + (at - before)[size:]).astype(np.float32)


def _without_gaps(score: Numbers, rows: Numbers) -> Numbers:
    """What is text, with what stands in between: the rows of a table, and one or two blocks that hardly missed it."""
    own = score > 0
    kept = own.nonzero()[0]
    last = (kept[1:] - kept[:-1] > 1).nonzero()[0]
    first, until = kept[last] + 1, kept[last + 1]
    stays = _all_within(rows, first, until)
    stays |= (until - first <= _SMALL_GAP) & _all_within(score > _NEARLY, first, until)
    for start, stop in zip(first[stays].tolist(), until[stays].tolist(), strict=True):
        own[start:stop] = True
    return own


def _all_within(true: Numbers, first: Numbers, until: Numbers) -> Numbers:
    """Whether all from each of `first` up to each of `until` are true."""
    sums: Numbers = np.zeros(len(true) + 1, dtype=np.int64)
    true.cumsum(out=sums[1:])
    return sums[until] - sums[first] == until - first


def _relu(h: Numbers, bias: Numbers) -> Numbers:
    h += bias
    return np.maximum(h, 0, out=h)


def _neighbors(h: Numbers, dilation: int) -> Numbers:
    """Each block's column, with those of its neighbors below it."""
    members, size, number = h.shape
    reach = WIDTH // 2 * dilation
    padded: Numbers = np.zeros((members, size, number + 2 * reach), dtype=h.dtype)
    padded[:, :, reach : reach + number] = h
    places = range(0, WIDTH * dilation, dilation)
    return np.concatenate([padded[:, :, at : at + number] for at in places], axis=1)


@cache
def load_model() -> ContentModel:
    """The model that leanpipe ships."""
    with np.load(WEIGHTS) as weights:
        return ContentModel(dict(weights))
