"""Documents that hold what models are evaluated on: texts of evaluation sets, and the run's own held-out documents.

Two texts overlap where they share a run of words (13 by default), as Brown et al. 2020 (appendix C) look for it: in
lower case, without punctuation. How much of a text such runs cover decides, as in Touvron et al. 2023 (Llama 2, A.6).
"""

import json
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.corpus.decontam import ngram_index
from leanpipe.corpus.dedup.word_hashes import shingles, shingles_of_sizes, word_hashes, word_spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

PASSAGE = 250
"""Characters of an overlapping passage that are shown."""


class DecontaminateConfig(StageConfig):
    """How much of an evaluation set, or of a held-out document, a document may hold that is learnt from."""

    enabled: bool = True
    """Drop documents that hold too much of the evaluation sets given, or of held-out documents."""
    held_out: bool = True
    """Compare documents that are learnt from with the run's own validation and test documents too."""
    ngram_words: int = Field(13, ge=5, le=100)
    """Words in a row that two texts must share to overlap (Brown et al. 2020, appendix C: 13; Llama 3: 8)."""
    min_words: int = Field(8, ge=3, le=100)
    """An evaluation text with fewer words than ngram_words is found as a whole, if it has at least so many (Brown et
    al. 2020: 8); shorter ones occur anywhere and are not looked for."""
    max_overlap: float = Field(0.2, ge=0, le=1)
    """Largest share of an evaluation text's words, or of the document's own words, that may stand in shared runs
    (Touvron et al. 2023, A.6: a text is clean below 20%). At 0 a single run is too much, as in Brown et al. 2020."""


class Overlap(NamedTuple):
    """The evaluation text that a document holds too much of, and how much of it."""

    name: str
    """The evaluation set of whose text the document has most."""
    value: float
    """Share of that text's words, or of the document's own, whichever is larger, that stand in shared runs."""
    passage: str
    """The longest shared stretch, as it stands in the document, or its beginning."""

    @property
    def rule(self) -> str:
        """Name the config field whose bound the document broke."""
        return "decontaminate.max_overlap"

    @property
    def detail(self) -> str:
        """Return what the account says of it: set and passage."""
        return f"{self.name}: {self.passage}"


def ngram_hashes(text: str, n: int) -> "NDArray[np.uint64]":
    """Return one number for every run of `n` words, regardless of case and punctuation: uint64 of shape (words - n + 1,).

    A text of fewer words has none.
    """
    words = word_hashes(text)
    return shingles(words, n) if len(words) >= n else words[:0]


def index_evaluation_sets(paths: Sequence[Path], config: DecontaminateConfig, folder: Path) -> Path | None:
    """Write the index of evaluation sets to `folder`; None if there are none, or they are not looked for."""
    if not (paths and config.enabled):
        return None
    OverlapIndex.of_files(paths, config).save(folder)
    return folder


class _Facts(NamedTuple):
    """What `index.json` holds."""

    ngram_words: int
    max_overlap: float
    lengths: list[int]
    """Words per run: `ngram_words`, and the lengths of shorter texts."""
    names: list[str]
    ignored: int
    """Texts too short to be looked for."""


class OverlapIndex:
    """Recognises texts that overlap with those of an index on disk: see `of_texts`, `of_hashes` and `load`."""

    def __init__(self, folder: Path):
        self._facts = _Facts(**json.loads((folder / "index.json").read_text()))
        self._texts = np.load(folder / "texts.npy", mmap_mode="r").view(np.ndarray)
        self._ngrams = ngram_index.NgramIndex(folder)

    @classmethod
    def load(cls, folder: Path) -> "OverlapIndex":
        """Open the index that was saved to `folder`; it is mapped, not read, into memory."""
        return cls(folder)

    @staticmethod
    def of_texts(texts: Iterable[tuple[str, str]], config: DecontaminateConfig) -> "UnsavedIndex":
        """Make the index of evaluation texts, each with the name of its set. Needs 16 bytes of memory per word."""
        return _collect(texts, config)

    @staticmethod
    def of_files(paths: Sequence[Path], config: DecontaminateConfig) -> "UnsavedIndex":
        """Make the index of the evaluation sets in files and folders. Raises UserError for a file that cannot be read."""
        from leanpipe.corpus.decontam.evaluation_sets import read_evaluation_set

        texts = (item for path in paths for item in read_evaluation_set(path, config.min_words))
        return _collect(texts, config)

    @staticmethod
    def of_hashes(
        name: str,
        hashes: Sequence["NDArray[np.uint64]"],
        config: DecontaminateConfig,
        counts: Sequence["NDArray[np.integer]"] | None = None,
    ) -> "UnsavedIndex":
        """Make the index of texts of which only the `ngram_hashes` are there; arrays on disk are read piece by piece.

        `counts[i]` says how many of `hashes[i]`, in order, belong to each text. Without it the texts count as one of
        unknown length, so that only a document's own share is judged, not how much of a text it holds.
        """
        return _noted(name, hashes, config, counts)

    def __len__(self) -> int:
        """How many texts it can recognise."""
        return len(self._texts)

    def overlap(self, text: str) -> Overlap | None:
        """Find what `text` shares with the texts of the index; None if that is no more than `max_overlap`."""
        words = word_hashes(text)
        lengths = np.array([length for length in self._facts.lengths if length <= len(words)], np.int64)
        runs, places = self._ngrams.find(shingles_of_sizes(words, lengths.tolist()))
        if not len(runs):
            return None
        ends = np.cumsum(len(words) + 1 - lengths)  # of the runs of each length
        which = np.searchsorted(ends, runs, side="right")
        starts = runs - np.concatenate([[0], ends])[which]
        return self._judge(text, _covered(len(words), starts, lengths[which]), places)

    def _judge(self, text: str, covered: "NDArray[np.bool_]", places: "NDArray[np.uint64]") -> Overlap | None:
        name, share = self._most(places)
        share = max(share, float(covered.mean()))
        return Overlap(name, share, _passage(text, covered)) if share > self._facts.max_overlap else None

    def _most(self, places: "NDArray[np.uint64]") -> tuple[str, float]:
        """(set, share of its words that are covered) of the text that is covered most; `places` are in order."""
        texts = (places >> np.uint64(32)).astype(np.int64)
        lengths = np.minimum(self._texts[texts, 0], self._facts.ngram_words).astype(np.uint64)
        # A run covers words until the next one begins; that of the next text is further away than any run is long.
        words = np.minimum(np.diff(places, append=~np.uint64(0)), lengths)
        found, at = np.unique(texts, return_index=True)
        shares = np.add.reduceat(words, at) / np.maximum(self._texts[found, 0], 1)
        best = int(shares.argmax())
        return self._facts.names[self._texts[found[best], 1]], float(shares[best])


class UnsavedIndex(NamedTuple):
    """An index that is still to be written."""

    facts: _Facts
    texts: "NDArray[np.uint32]"
    """Shape (texts, 2): words, 0 if they are not known, and index of the name."""
    chunks: Callable[[], Iterable[ngram_index.Chunk]]
    """Gives the runs, each at text << 32 | first word."""
    runs: int

    def save(self, folder: Path) -> None:
        """Write the index to `folder`, which is replaced."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ngram_index.write_ngram_index(folder, self.chunks(), self.runs)
        np.save(folder / "texts.npy", self.texts)
        (folder / "index.json").write_text(json.dumps(self.facts._asdict()))


def _collect(texts: Iterable[tuple[str, str]], config: DecontaminateConfig) -> UnsavedIndex:
    n = config.ngram_words
    rows: list[tuple[int, int]] = []
    names: dict[str, int] = {}
    chunks, ignored = [], 0
    for name, text in texts:
        # The documents that it is compared with are normalised too.
        words = word_hashes(unicodedata.normalize("NFC", text))
        if len(words) < min(config.min_words, n):
            ignored += 1
            continue
        runs = shingles(words, n)
        chunks.append((runs, np.arange(len(runs), dtype=np.uint64) | np.uint64(len(rows) << 32)))
        rows.append((len(words), names.setdefault(name, len(names))))
    lengths = sorted({min(words, n) for words, _ in rows})
    facts = _Facts(n, config.max_overlap, lengths, list(names), ignored)
    table = np.array(rows, np.uint32).reshape(-1, 2)
    return UnsavedIndex(facts, table, partial(_joined, chunks), sum(len(runs) for runs, _ in chunks))


def _joined(chunks: Sequence[ngram_index.Chunk]) -> Iterator[ngram_index.Chunk]:
    """Join chunks to fewer and larger ones: evaluation texts are many and short."""
    step = 10_000
    for start in range(0, len(chunks), step):
        hashes, places = zip(*chunks[start : start + step], strict=True)
        yield np.concatenate(hashes), np.concatenate(places)


def _noted(
    name: str, hashes: Sequence[Any], config: DecontaminateConfig, counts: Sequence[Any] | None
) -> UnsavedIndex:
    n = config.ngram_words
    sizes = np.concatenate([np.empty(0, np.int64), *(counts or [])]).astype(np.int64)
    words = np.where(sizes > 0, sizes + n - 1, 0) if counts is not None else np.zeros(1, np.int64)
    table = np.stack([words, np.zeros_like(words)], axis=1).astype(np.uint32)
    facts = _Facts(n, config.max_overlap, [n], [name], 0)
    chunks = partial(_placed, hashes, np.cumsum(sizes) if counts is not None else None)
    return UnsavedIndex(facts, table, chunks, sum(map(len, hashes)))


def _placed(hashes: Sequence[Any], ends: "NDArray[np.int64] | None") -> Iterator[ngram_index.Chunk]:
    """Pieces of the arrays with their places, from where each text's runs end in all of them together."""
    before = 0
    for one in hashes:
        for start in range(0, len(one), ngram_index.BATCH):
            part = one[start : start + ngram_index.BATCH]
            yield part, _places(before + start, len(part), ends)
        before += len(one)


def _places(start: int, count: int, ends: "NDArray[np.int64] | None") -> "NDArray[np.uint64]":
    """Number the places of runs number `start` and on: all 0, if it is not known where texts end."""
    if ends is None:
        return np.zeros(count, np.uint64)
    at: Any = np.arange(start, start + count)
    texts = np.searchsorted(ends, at, side="right")
    return (texts << 32 | (at - np.concatenate([[0], ends])[texts])).astype(np.uint64)


def _covered(words: int, starts: Any, lengths: Any) -> "NDArray[np.bool_]":
    """Which of so many words stand in one of the runs."""
    changes: Any = np.zeros(words + 1, np.int32)
    np.add.at(changes, starts, 1)
    np.subtract.at(changes, starts + lengths, 1)
    return changes[:-1].cumsum() > 0


def _passage(text: str, covered: "NDArray[np.bool_]") -> str:
    """The longest stretch of words that are covered, as it stands in `text`."""
    edges = np.flatnonzero(np.diff(covered, prepend=False, append=False))
    starts, ends = edges[0::2], edges[1::2]
    longest = int((ends - starts).argmax())
    spans = word_spans(text)
    return text[spans[starts[longest], 0] : spans[ends[longest] - 1, 1]][:PASSAGE]
