"""Documents and paragraphs that say what an earlier one said. The first stays: what earlier runs hold comes first, then
reading order. Works on hashes and signatures that lie on disk; no text is read.

Shapes: n documents of all segments, P permutations.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.corpus.dedup.column_files import read_column
from leanpipe.corpus.dedup.minhash import band_keys, bands, similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 1 << 16  # signatures compared at once
_IN_MEMORY = 1 << 24  # keys sorted at once: 256 MB with their order
_REPRESENTATIVES = 8  # documents of one bucket that the others of it are compared with


class DuplicatesConfig(StageConfig):
    """What counts as a repetition of something earlier, in this corpus or in what earlier runs hold of it."""

    exact: bool = True
    """Drop a document whose cleaned text was there before."""
    near: bool = True
    """Drop a document that is almost the same as one before (MinHash, Broder 1997; Lee et al. 2021, section 4.2)."""
    threshold: float = Field(0.8, gt=0, le=1)
    """Least Jaccard similarity of their shingles at which two documents are near duplicates (Lee et al.: 0.8)."""
    shingle_words: int = Field(5, ge=1, le=50)
    """Words per shingle (Lee et al.: 5)."""
    permutations: int = Field(128, ge=16, le=4096)
    """Hashes per document: more find the threshold more sharply and take longer."""
    paragraphs: bool = False
    """Remove paragraphs that were there before, in any document (CCNet, Wenzek et al. 2020, section 3.1)."""
    paragraph_characters: int = Field(60, ge=1, le=100_000)
    """Shorter paragraphs may repeat: headings and such."""


class Segment:
    """The columns that one shard wrote of its documents."""

    def __init__(self, folder: Path, permutations: int):
        self.folder = folder
        self._permutations = permutations

    @cached_property
    def hashes(self) -> "NDArray[np.uint64]":
        """Map the first 16 bytes of the SHA-256 of each text: shape (n, 2)."""
        return read_column(self.folder / "hashes.u64", np.uint64, 2)

    @cached_property
    def signatures(self) -> "NDArray[np.uint32]":
        """Map the MinHash signatures: shape (n, P), or (0, P) if near duplicates are not looked for."""
        return read_column(self.folder / "signatures.u32", np.uint32, self._permutations)

    @cached_property
    def ids(self) -> "NDArray[Any]":
        """Map the ids of the documents, 24 hex digits each: shape (n,)."""
        return read_column(self.folder / "ids.s24", "S24")

    @cached_property
    def splits(self) -> "NDArray[np.uint8]":
        """Map the places in `SPLITS` of the splits that the texts' hashes decide: shape (n,)."""
        return read_column(self.folder / "splits.u8", np.uint8)

    @cached_property
    def paragraphs(self) -> "NDArray[np.uint64]":
        """Map the hashes of all paragraphs that count, in order: shape (paragraphs,)."""
        return read_column(self.folder / "paragraphs.u64", np.uint64)

    @cached_property
    def paragraph_counts(self) -> "NDArray[np.uint32]":
        """Map how many of these paragraphs each document has: shape (n,)."""
        return read_column(self.folder / "paragraph_counts.u32", np.uint32)

    def __len__(self) -> int:
        return len(self.hashes)


class Pairs(NamedTuple):
    """Documents that repeat an earlier one, by their numbers in the whole."""

    later: "NDArray[np.int64]"
    earlier: "NDArray[np.int64]"
    similarity: "NDArray[np.float64]"

    @classmethod
    def merge(cls, pairs: Sequence["Pairs"]) -> "Pairs":
        """Join several lists of pairs to one that has each later document once, with its earliest match."""
        if not pairs:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        later, earlier, similarity = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
        order = np.lexsort((earlier, later))
        first = order[np.unique(later[order], return_index=True)[1]]
        return cls(later[first], earlier[first], similarity[first])


class DocumentIndex:
    """The documents of all segments, numbered through: those of earlier runs first, then the new ones."""

    def __init__(self, segments: Sequence[Segment], base: int):
        """`base`: how many of `segments` are of earlier runs; their documents stay, whatever comes."""
        self.segments = segments
        self.starts = np.cumsum([0, *map(len, segments)])
        self.new = int(self.starts[base])
        """The first document that is new."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, number: int) -> tuple[Segment, int]:
        """Find the segment of a document, and its row there."""
        at = int(np.searchsorted(self.starts, number, "right")) - 1
        return self.segments[at], number - int(self.starts[at])

    def id(self, number: int) -> str:
        """Return the id of a document, by its number."""
        segment, row = self.place(number)
        return bytes(segment.ids[row]).decode()

    def signatures(self, numbers: "NDArray[np.int64]") -> "NDArray[np.uint32]":
        """Return the signatures of the documents with these numbers: shape (len(numbers), P)."""
        at = np.searchsorted(self.starts, numbers, "right") - 1
        result = np.empty((len(numbers), self.segments[0].signatures.shape[1]), np.uint32)
        for segment in np.unique(at):
            mine = at == segment
            result[mine] = self.segments[segment].signatures[numbers[mine] - self.starts[segment]]
        return result


def exact_pairs(index: DocumentIndex) -> Pairs:
    """Find the documents with the very text of an earlier one."""
    found = []
    for numbers, keys in _parts(index, lambda segment: segment.hashes[:, 0]):
        order = np.argsort(keys, kind="stable")
        rest = np.concatenate([segment.hashes[:, 1] for segment in index.segments])[numbers]
        order = order[np.lexsort((rest[order], keys[order]))]
        same = (keys[order][1:] == keys[order][:-1]) & (rest[order][1:] == rest[order][:-1])
        leader = np.maximum.accumulate(np.where(np.concatenate([[True], ~same]), np.arange(len(order)), 0))
        later = np.flatnonzero(np.concatenate([[False], same]))
        found.append(Pairs(numbers[order[later]], numbers[order[leader[later]]], np.ones(len(later))))
    pairs = Pairs.merge(found)
    new = pairs.later >= index.new
    return Pairs(*(column[new] for column in pairs))


def near_pairs(
    index: DocumentIndex, gone: "NDArray[np.bool_]", config: DuplicatesConfig, task: int, of: int
) -> Pairs:
    """Find documents that are nearly an earlier one, by the bands that fall to `task` of `of`; not those in `gone` (n,)."""
    count, rows = bands(config.threshold, config.permutations)
    found = []
    for band in range(task, count, of):
        for numbers, keys in _parts(index, lambda segment, band=band: _keys(segment, band, rows), gone):  # type: ignore[misc]
            for bucket in _buckets(numbers, keys, index.new):
                found += list(_compare(index, bucket, config.threshold))
    return Pairs.merge(found)


def repeated_paragraphs(index: DocumentIndex, gone: "NDArray[np.bool_]") -> list["NDArray[np.bool_]"]:
    """Mark, for each segment, which of its paragraphs were there before in a document that is not `gone`."""
    hashes = np.concatenate([segment.paragraphs for segment in index.segments])
    kept = np.concatenate([
        np.repeat(~gone[start:end], segment.paragraph_counts)
        for segment, start, end in zip(index.segments, index.starts, index.starts[1:], strict=False)
    ])  # fmt: skip
    alive = np.flatnonzero(kept)
    first = alive[np.unique(hashes[alive], return_index=True)[1]]
    repeated = kept.copy()
    repeated[first] = False
    ends = np.cumsum([len(segment.paragraphs) for segment in index.segments])
    return np.split(repeated, ends[:-1])


def _keys(segment: Segment, band: int, rows: int) -> "NDArray[np.uint64]":
    parts = range(0, max(1, len(segment)), _AT_ONCE)
    return np.concatenate([
        band_keys(np.asarray(segment.signatures[start : start + _AT_ONCE]), band, rows) for start in parts
    ])  # fmt: skip


def _parts(
    index: DocumentIndex, keys_of: Any, gone: "NDArray[np.bool_] | None" = None
) -> Iterator[tuple["NDArray[np.int64]", "NDArray[np.uint64]"]]:
    """(numbers, keys) of all documents that are not gone, in as many parts, by key, as memory asks for."""
    count = -(-len(index) // _IN_MEMORY)
    for part in range(count):
        numbers, keys = [], []
        for segment, start in zip(index.segments, index.starts, strict=False):
            values = np.asarray(keys_of(segment))
            mine: Any = np.ones(len(values), np.bool_)
            if count > 1:
                mine = values % np.uint64(count) == part
            if gone is not None:
                mine &= ~gone[start : start + len(values)]
            numbers.append(np.flatnonzero(mine) + start)
            keys.append(values[mine])
        if numbers:
            yield np.concatenate(numbers), np.concatenate(keys)


def _buckets(
    numbers: "NDArray[np.int64]", keys: "NDArray[np.uint64]", new: int
) -> Iterator["NDArray[np.int64]"]:
    """The documents that share a key, ascending, where at least one of them is new."""
    order = np.argsort(keys, kind="stable")
    starts = (
        np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]])) if len(order) else order
    )
    ends: np.ndarray = np.append(starts[1:], len(order))
    for start, end in zip(starts, ends, strict=True):
        if end - start > 1 and numbers[order[end - 1]] >= new:
            yield numbers[order[start:end]]


def _compare(index: DocumentIndex, bucket: "NDArray[np.int64]", threshold: float) -> Iterator[Pairs]:
    """Pairs with the first document of the bucket, then, among those unlike it, with the first of them, and so on."""
    for _ in range(_REPRESENTATIVES):
        if len(bucket) < 2:
            return
        first, others = bucket[0], bucket[1:]
        one = index.signatures(bucket[:1])[0]
        parts = (others[start : start + _AT_ONCE] for start in range(0, len(others), _AT_ONCE))
        alike = np.concatenate([similarity(index.signatures(part), one) for part in parts])
        like = alike >= threshold
        mine = like & (others >= index.new)
        if mine.any():
            yield Pairs(others[mine], np.full(mine.sum(), first), alike[mine])
        bucket = others[~like]
