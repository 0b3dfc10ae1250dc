"""Documents' tokens to blocks of one length, without padding, and without one document seeing another.

Shapes: N blocks of T tokens each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Packed(NamedTuple):
    tokens: np.ndarray
    """(N, T), the smallest unsigned type that holds the vocabulary."""
    positions: np.ndarray
    """(N, T): each token's place in its document as far as it lies in this block; 0 where a document begins."""
    used: int
    """Tokens in the blocks that are no padding."""


def join(documents: Sequence[np.ndarray], separator: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """All documents in one row, and where each begins. Each is [separator] + tokens + [separator]."""
    lengths = np.fromiter((len(tokens) + 2 for tokens in documents), dtype=np.int64, count=len(documents))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    row = np.full(int(lengths.sum()), separator, dtype=token_type(vocabulary))
    for start, end, tokens in zip(starts, ends, documents, strict=True):
        row[start + 1 : end - 1] = tokens
    return row, starts


def pack(row: np.ndarray, starts: np.ndarray, length: int, separator: int) -> Packed:
    """Cut `row` into blocks of `length`; a document that a cut divides goes on in the next block from position 0.

    The rest that fills no block is dropped, unless it is all there is: then it is filled up with separators, each at
    position 0, so that none of them is learnt. `starts` is where documents begin, ascending, the first at 0.
    """
    size = max(1, len(row) // length) * length
    tokens = np.full(size, separator, dtype=row.dtype)
    used = min(size, len(row))
    tokens[:used] = row[:used]
    positions = _positions(starts, used, length)
    padded = np.concatenate([positions, np.zeros(size - used, dtype=positions.dtype)])
    return Packed(tokens.reshape(-1, length), padded.reshape(-1, length).astype(token_type(length)), used)


def token_type(count: int) -> type[np.unsignedinteger]:
    """The smaller of the two types that hold the numbers below `count`."""
    return np.uint16 if count <= 2**16 else np.uint32


def _positions(starts: np.ndarray, count: int, length: int) -> np.ndarray:
    """Distance of each of `count` tokens from the last beginning before it, of a document or of a block."""
    places = np.arange(count)
    begins: np.ndarray = np.zeros(count, dtype=np.int64)
    begins[starts[starts < count]] = starts[starts < count]
    begins[::length] = places[::length]
    return places - np.maximum.accumulate(begins)
