"""Which blocks of a page are its own text: a small convolutional network over their sequence, in numpy.

It was fitted by `benchmarks/fit_extraction.py` on pages of the web with phrases that a person had said are, or are not, text of
the page, and on manuals. Like Web2Text (Vogels et al. 2018, "Web2Text: Deep Structured Boilerplate Removal") it sees a block
together with its neighbors; besides, it sees the means and maxima of the whole page.
"""

from functools import cache
from itertools import chain
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
from leanpipe.corpus.extract.html_blocks import HtmlPage, Numbers

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
_REMEMBERED = 100_000  # tags of which the words are known


class OwnBlocks(NamedTuple):
    """What of a page is its own text."""

    blocks: Numbers
    """Numbers of the blocks."""
    unsure: bool
    """Whether a good part of the page may be its own text as well as not."""


def find_own_blocks(page: HtmlPage, *, comments: bool = False) -> OwnBlocks:
    """Tell which blocks of a page are its own text. Readers' comments are none, unless they are asked for."""
    if not len(page.first_tag):
        return OwnBlocks(page.first_tag, False)
    score = load_model().score(page)
    length = page.within(page.visible)
    unsure = bool(length[np.abs(score) < _UNSURE].sum() > _UNSURE_SHARE * length.sum())
    own = _without_gaps(score > 0, score, page.rows)
    if comments:
        own |= in_comments(page) & (page.within(page.linked) < _COMMENT_LINKED * length)
    return OwnBlocks(np.flatnonzero(own), unsure)


def _without_gaps(own: Numbers, score: Numbers, rows: Numbers) -> Numbers:
    """What is text, with what stands in between: the rows of a table, and one or two blocks that hardly missed it."""
    filled, kept = own.copy(), np.flatnonzero(own)
    for before in np.flatnonzero(np.diff(kept) > 1).tolist():
        gap = slice(kept[before] + 1, kept[before + 1])
        is_small = gap.stop - gap.start <= _SMALL_GAP
        filled[gap] = rows[gap].all() or (is_small and bool((score[gap] > _NEARLY).all()))
    return filled


class ContentModel:
    """The network and its vocabulary."""

    def __init__(self, weights: dict[str, Numbers]):
        self._w = weights
        self._vocabulary = {bytes(word): number for number, word in enumerate(weights["vocabulary"])}
        self._words = np.concatenate([weights["far"], weights["near"]], axis=1)
        self._known: dict[bytes, tuple[int, ...]] = {}

    def score(self, page: HtmlPage) -> Numbers:
        """Log odds that a block is the page's own text, from which a block is kept that has more than 0."""
        w = self._w
        ancestors = Ancestors(page)
        measures = (measure_blocks(page, ancestors) - w["mean"]) * w["scale"]
        named = self._names(page, ancestors)
        h = np.concatenate([np.clip(measures, -CLIP, CLIP), named], axis=1)
        one = np.maximum(h @ w["c1.w"] + w["c1.b"], 0)
        whole = np.concatenate([one.mean(axis=0), one.max(axis=0)])
        whole = np.maximum(whole @ w["g.w"] + w["g.b"], 0)
        two = np.maximum(_neighbors(one, 1) @ w["c2.w"] + w["c2.b"] + whole, 0)
        three = np.maximum(_neighbors(two, DILATION) @ w["c3.w"] + w["c3.b"], 0)
        return np.concatenate([one, two, three], axis=1) @ w["o.w"] + w["o.b"]

    def _names(self, page: HtmlPage, ancestors: Ancestors) -> Numbers:
        """What the names of the elements around each block say: the sum over them, the nearest ones weighted otherwise."""
        found, tags = element_tags(page, ancestors)
        words = [self._known.get(tag) for tag in tags]
        words = [self._learn(tag) if one is None else one for tag, one in zip(tags, words, strict=True)]
        number = np.fromiter(map(len, words), dtype=np.intp, count=len(words))
        saying = number > 0
        size = self._words.shape[1] // 2
        if not saying.any():
            return np.zeros((len(page.first_tag), size), dtype=np.float32)

        # Each element adds its words where it begins, and takes them away where it ends.
        flat = np.fromiter(chain.from_iterable(words), dtype=np.intp)
        begins = number.cumsum() - number
        added = np.add.reduceat(self._words[flat], begins[saying])
        tag = np.concatenate([found[saying], ancestors.end(found[saying])])
        order = tag.argsort(kind="stable")
        sums = np.concatenate(
            [np.zeros((1, 2 * size)), np.concatenate([added, -added])[order].cumsum(axis=0)]
        )
        near = ancestors.starts[ancestors.around(page.first_tag, NEAR - 1)]
        at, before = sums[tag[order].searchsorted([page.first_tag, near - 1], "right")]
        return (before[:, :size] + (at - before)[:, size:]).astype(np.float32)

    def _learn(self, tag: bytes) -> tuple[int, ...]:
        if len(self._known) == _REMEMBERED:
            self._known.clear()
        words = {*map(self._vocabulary.get, element_words(tag))} - {None}
        self._known[tag] = known = tuple(words)
        return known


def _neighbors(h: Numbers, dilation: int) -> Numbers:
    """Each block's row, with those of its neighbors beside it."""
    number, reach = len(h), WIDTH // 2 * dilation
    padded = np.zeros((number + 2 * reach, h.shape[1]), dtype=h.dtype)
    padded[reach : reach + number] = h
    return np.concatenate([padded[at * dilation : at * dilation + number] for at in range(WIDTH)], axis=1)


@cache
def load_model() -> ContentModel:
    """The model that leanpipe ships."""
    with np.load(WEIGHTS) as weights:
        return ContentModel(dict(weights))
