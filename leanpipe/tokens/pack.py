"""Documents to blocks of one length, with the fewest cuts, next to no padding, and none seeing another.

Shapes: N blocks of T tokens each. A piece is what of a document lies in one block.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 2**20  # tokens that are laid out at once: what it takes in memory is some 40 times as many bytes

Packing = Literal["best_fit", "concatenate"]


class PackingPlan(NamedTuple):
    """Which piece goes into which block. One entry per piece; blocks are numbered in the order of their first piece."""

    starts: "NDArray[np.int64]"
    """Where a piece begins, counted in tokens over all documents laid end to end."""
    lengths: "NDArray[np.int64]"
    blocks: "NDArray[np.int64]"
    """Ascending."""

    @property
    def total(self) -> int:
        """Number of blocks, N."""
        return int(self.blocks[-1]) + 1 if len(self.blocks) else 0


def plan_packing(
    lengths: "NDArray[np.int64]", size: int, packing: Packing, max_padding: float
) -> PackingPlan:
    """Find a place for every token of documents of these `lengths` in blocks of `size`.

    `best_fit` (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 3): a document is cut only
    where it is longer than a block, and the rest goes where it fills a block best. Where more than `max_padding` of all
    tokens would be padding, because the lengths do not go together, the emptiest blocks are joined and cut after all.
    `concatenate`: all documents in a row, cut at every `size` tokens.
    """
    starts = np.cumsum(lengths) - lengths
    if packing == "concatenate":
        return _in_order(*_cut(starts, lengths, starts, size))
    starts, lengths, _ = _cut(starts, lengths, np.zeros_like(starts), size)
    return _in_order(*_fill_emptiest(starts, lengths, best_fit(lengths, size), size, max_padding))


def best_fit(lengths: "NDArray[np.int64]", size: int) -> "NDArray[np.int64]":
    """Choose the number of a block for each length: the longest first, each into the fullest block that has room for it.

    Lengths are from 1 to `size`. Equal ones are placed together, so that a million short documents take no longer than
    a thousand: O(n log n) to sort, and a step for each length and each amount of free space that it meets.
    """
    blocks: NDArray[np.int64] = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    ends: NDArray[np.int64] = np.flatnonzero(np.diff(lengths[order], append=0)) + 1
    room = _Room(size)
    for items in np.split(order, ends[:-1]) if len(order) else ():
        length = int(lengths[items[0]])
        while len(items):
            space, chosen = room.take(length, len(items))
            fit = space // length
            placed, last = items[: fit * len(chosen)], len(items) - fit * (len(chosen) - 1)
            blocks[placed] = np.repeat(np.array(chosen), fit)[: len(placed)]
            items = items[len(placed) :]
            room.keep(space - fit * length, chosen[:-1])
            room.keep(space - min(fit, last) * length, chosen[-1:])
    return blocks


class _Room:
    """The blocks by their free space."""

    def __init__(self, size: int):
        self._size = size
        self._blocks: dict[int, list[int]] = {}
        self._spaces: list[int] = []  # the keys, ascending
        self._opened = 0

    def take(self, length: int, count: int) -> tuple[int, list[int]]:
        """The least space that holds `length`, and as many of the blocks with it as `count` such pieces fill.

        A block that took one piece is the fullest with room for the next, so each is filled before the next is begun.
        """
        place = bisect_left(self._spaces, length)
        if place == len(self._spaces):
            wanted = -(-count // (self._size // length))
            self._opened += wanted
            return self._size, list(range(self._opened - wanted, self._opened))
        space = self._spaces[place]
        held = self._blocks[space]
        wanted = -(-count // (space // length))
        taken, held[:wanted] = held[:wanted], []
        if not held:
            del self._blocks[space], self._spaces[place]
        return space, taken

    def keep(self, space: int, blocks: Sequence[int]) -> None:
        if space and blocks:
            if space not in self._blocks:
                self._blocks[space] = []
                insort(self._spaces, space)
            self._blocks[space] += blocks


def _cut(
    starts: "NDArray[np.int64]", lengths: "NDArray[np.int64]", places: "NDArray[np.int64]", size: int
) -> "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]":
    """Starts, lengths and blocks of the pieces that arise where what lies at `places` crosses a multiple of `size`."""
    ends = places + lengths
    counts = np.where(lengths, (ends - 1) // size - places // size + 1, 0)
    whole: NDArray[np.int64] = np.repeat(np.arange(len(starts)), counts)
    blocks = places[whole] // size + np.arange(len(whole)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = np.maximum(places[whole], blocks * size)
    stops = np.minimum(ends[whole], (blocks + 1) * size)
    return starts[whole] + begins - places[whole], stops - begins, blocks


def _fill_emptiest(
    starts: "NDArray[np.int64]",
    lengths: "NDArray[np.int64]",
    blocks: "NDArray[np.int64]",
    size: int,
    max_padding: float,
) -> "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]":
    """Join and cut the emptiest blocks, so that padding is at most `max_padding`, or as little as can be, with few cuts."""
    used = np.bincount(blocks, lengths).astype(np.int64)
    emptiest = np.argsort(used, kind="stable")
    content = np.concatenate([[0], np.cumsum(used[emptiest])])
    # After joining the k emptiest blocks, for every k. The last of what they are joined to is not full either.
    count = len(used) - np.arange(len(used) + 1) - (-content // size)
    allowed = max(int(count[-1]), (1 - max_padding) ** -1 * content[-1] / size if max_padding < 1 else np.inf)
    joined = emptiest[: np.argmax(count <= allowed)]
    moved = np.isin(blocks, joined)
    lengths_moved = lengths[moved]
    cut = _cut(starts[moved], lengths_moved, np.cumsum(lengths_moved) - lengths_moved, size)
    return (
        np.concatenate([starts[~moved], cut[0]]),
        np.concatenate([lengths[~moved], cut[1]]),
        np.concatenate([blocks[~moved], cut[2] + len(used)]),
    )


def _in_order(
    starts: "NDArray[np.int64]", lengths: "NDArray[np.int64]", blocks: "NDArray[np.int64]"
) -> PackingPlan:
    """Blocks in the order of their first token in the documents, and so are the pieces within each."""
    order = np.argsort(starts)
    starts, lengths, blocks = starts[order], lengths[order], blocks[order]
    _, first, inverse = np.unique(blocks, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    order = np.argsort(rank[inverse], kind="stable")
    return PackingPlan(starts[order], lengths[order], rank[inverse][order])


def lay_out_blocks(
    row: np.ndarray, plan: PackingPlan, size: int, separator: int, vocabulary: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield tokens and positions, both (n, T), of some of the blocks after another, in their order.

    `row` is all documents end to end. Positions are 0 where a piece begins, and throughout the padding, which consists
    of separators: so each of them is a document of its own, and nobody learns it.
    """
    step = max(1, _AT_ONCE // size)
    for first in range(0, plan.total, step):
        count = min(step, plan.total - first)
        begin = int(np.searchsorted(plan.blocks, first))
        end = int(np.searchsorted(plan.blocks, first + count))
        some = slice(begin, end)
        starts, lengths, blocks = plan.starts[some], plan.lengths[some], plan.blocks[some] - first
        before = np.cumsum(lengths) - lengths  # tokens in earlier pieces
        places = blocks * size + before - before[np.searchsorted(blocks, blocks)]
        each = np.arange(int(lengths.sum()))
        tokens = np.full(count * size, separator, token_type(vocabulary))
        positions = np.zeros(count * size, token_type(size))
        targets = np.repeat(places - before, lengths) + each
        tokens[targets] = row[np.repeat(starts - before, lengths) + each]
        positions[targets] = each - np.repeat(before, lengths)
        yield tokens.reshape(count, size), positions.reshape(count, size)


def token_type(count: int) -> type[np.unsignedinteger]:
    """Choose the smaller of the two types that hold the numbers below `count`."""
    return np.uint16 if count <= 2**16 else np.uint32
