"""MinHash signatures (Broder 1997) and the bands by which similar ones are found (Leskovec et al., "Mining of Massive
Datasets", section 3.4). n is documents, P permutations."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 2048  # shingles whose P hashes are in the processor's cache together
_RECALL = 0.99  # a pair that is just as similar as the threshold is found so often


def signature(shingles: "NDArray[np.uint64]", permutations: int) -> "NDArray[np.uint32]":
    """Return for each of P hash functions its least value over the shingles: uint32 of shape (P,).

    The share of places at which two signatures agree estimates the Jaccard similarity of their shingles. The hash
    functions are multiply-shift (Dietzfelbinger et al. 1997), for shingles are well mixed numbers already.
    """
    factors, addends = _functions(permutations)
    least: np.ndarray = np.full(permutations, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(shingles), _AT_ONCE):
        values = factors * shingles[None, start : start + _AT_ONCE]
        values += addends
        np.minimum(least, values.min(axis=1), out=least)
    return (least >> np.uint64(32)).astype(np.uint32)


def similarity(ones: "NDArray[np.uint32]", others: "NDArray[np.uint32]") -> "NDArray[np.float64]":
    """Estimate the Jaccard similarity of signatures (n, P) with signatures (n, P) or (P,)."""
    return (ones == others).mean(axis=1)


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Choose (bands, rows of each): as many rows as still find 99 of 100 pairs at the threshold, so that few others are."""
    for rows in range(permutations, 0, -1):
        count = permutations // rows
        if 1 - (1 - threshold**rows) ** count >= _RECALL:
            return count, rows
    return permutations, 1


def band_keys(signatures: "NDArray[np.uint32]", band: int, rows: int) -> "NDArray[np.uint64]":
    """Return keys that documents share, but for chance, if they agree in all rows of the band: uint64 of shape (n,)."""
    keys: np.ndarray = np.full(len(signatures), band, np.uint64)
    for row in range(band * rows, (band + 1) * rows):
        keys = (keys ^ signatures[:, row]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


@cache
def _functions(permutations: int) -> tuple["NDArray[np.uint64]", "NDArray[np.uint64]"]:
    """Odd factors and addends, each (P, 1), the same on every machine."""
    numbers = np.random.default_rng(1).integers(0, 2**63, (2, permutations, 1), np.uint64)
    return numbers[0] * np.uint64(2) + np.uint64(1), numbers[1]
