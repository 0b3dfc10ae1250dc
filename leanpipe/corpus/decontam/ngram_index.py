"""A table on disk from runs of words (n-grams, as 64-bit numbers) to where they stand. Mapped, never read, into memory.

So its size is bounded by the disk, and all processes of a machine share one copy. Written in two passes, each of which
holds only a few million runs at a time: into buckets by how their numbers begin, then bucket by bucket in order.

hashes.bin   uint64, sorted: the number of each run        places.bin   uint64: its place, whatever that is
filter.npy   32 bits or more per run, those set that the number of some run begins with
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 1 << 21
"""Runs that are sorted at once: 32 MiB of numbers and places."""

_MOST_BUCKETS = 1024  # as many files are open at once
_SLOTS = 32  # bits of the filter per run, at least: of the runs that are not in the table, at most one in 32 passes
_REPEATS = 16  # places of one run that are given: a run of more texts is a set phrase
_BITS = np.array([1 << bit for bit in range(8)], np.uint8)
_NONE: Any = np.empty(0, np.uint64)

Chunk = tuple["NDArray[np.uint64]", "NDArray[np.uint64]"]
"""Numbers of runs and their places: two arrays of one length, in any order."""


class NgramIndex:
    """Finds runs of words in the table that `write_ngram_index` left in a folder."""

    def __init__(self, folder: Path):
        self._hashes = _mapped(folder / "hashes.bin")
        self._places = _mapped(folder / "places.bin")
        self._filter = np.load(folder / "filter.npy", mmap_mode="r").view(
            np.ndarray
        )  # whose operations are faster

    def __len__(self) -> int:
        """How many runs it holds."""
        return len(self._hashes)

    def find(self, runs: "NDArray[np.uint64]") -> tuple["NDArray[np.int64]", "NDArray[np.uint64]"]:
        """Return which of `runs` are in the table, as indices, and the places of those, each once, at most 16 of one run."""
        maybe = np.flatnonzero(self._may_hold(runs))
        if not len(maybe):
            return maybe, _NONE
        wanted = runs[maybe]
        first = np.minimum(np.searchsorted(self._hashes, wanted), len(self) - 1)
        there = np.flatnonzero(self._hashes[first] == wanted)
        return maybe[there], self._places_from(np.unique(first[there])) if len(there) else _NONE

    def _places_from(self, first: Any) -> "NDArray[np.uint64]":
        last = np.searchsorted(self._hashes, self._hashes[first], side="right")
        counts = np.minimum(last - first, _REPEATS)
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.unique(self._places[np.repeat(first, counts) + nth])

    def _may_hold(self, runs: "NDArray[np.uint64]") -> "NDArray[np.bool_]":
        bits = 2 + len(self._filter).bit_length()
        slots = (runs >> np.uint64(64 - bits)).view(np.int64)  # what numpy uses as indices without a copy
        return (self._filter[slots >> 3] & _bit(slots)) != 0


def write_ngram_index(folder: Path, chunks: Iterable[Chunk], count: int) -> None:
    """Write the table of all runs of `chunks`, about `count` of them, to `folder`, which must exist."""
    buckets = folder / ".buckets"
    buckets.mkdir()
    number = min(_MOST_BUCKETS, 1 << (count // BATCH).bit_length())
    bounds = np.array([(bucket << 64) // number for bucket in range(1, number)], np.uint64)
    for chunk in chunks:
        for hashes, places in _slices(*chunk):
            _distribute(hashes, places, bounds, buckets)
    with (folder / "hashes.bin").open("wb") as hashes_file, (folder / "places.bin").open("wb") as places_file:
        for bucket in range(number):
            hashes, places = _read_bucket(buckets / str(bucket))
            hashes.tofile(hashes_file)
            places.tofile(places_file)
    shutil.rmtree(buckets)
    _write_filter(folder / "filter.npy", _mapped(folder / "hashes.bin"))


def _slices(hashes: Any, places: Any) -> Iterator[Chunk]:
    for start in range(0, len(hashes), BATCH):
        yield hashes[start : start + BATCH], places[start : start + BATCH]


def _distribute(hashes: Any, places: Any, bounds: Any, folder: Path) -> None:
    order = hashes.argsort(kind="stable")
    rows = np.stack([hashes[order], places[order]], axis=1)
    cuts = np.searchsorted(rows[:, 0], bounds)
    for bucket, part in enumerate(np.split(rows, cuts)):
        if len(part):
            with (folder / str(bucket)).open("ab") as file:
                part.tofile(file)


def _read_bucket(path: Path) -> Chunk:
    if not path.exists():
        return _NONE, _NONE
    rows = np.fromfile(path, np.uint64).reshape(-1, 2)
    order = rows[:, 0].argsort(kind="stable")
    return rows[order, 0], rows[order, 1]


def _write_filter(path: Path, hashes: Any) -> None:
    """A bit for every beginning that a number can have, set if one of `hashes`, which are sorted, has it."""
    bits = max(3, (_SLOTS * len(hashes)).bit_length())
    table = np.lib.format.open_memmap(path, "w+", np.uint8, (1 << (bits - 3),))
    for start in range(0, len(hashes), BATCH):
        slots = (hashes[start : start + BATCH] >> np.uint64(64 - bits)).view(np.int64)
        cells, at = np.unique(slots >> 3, return_index=True)
        table[cells] |= np.bitwise_or.reduceat(_bit(slots), at)
    table.flush()


def _bit(slots: Any) -> "NDArray[np.uint8]":
    return _BITS[slots & 7]


def _mapped(path: Path) -> Any:
    """A file of numbers as an array; an empty file cannot be mapped."""
    return np.memmap(path, np.uint64, "r").view(np.ndarray) if path.stat().st_size else _NONE
