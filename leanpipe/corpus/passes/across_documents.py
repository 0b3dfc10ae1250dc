"""The second step of cleaning: what documents say about each other, and what becomes of each.

1. `find_duplicates` compares the columns of all documents, and decides their splits. No text is read.
2. `index_held_out` makes an index of the held-out documents' runs of words.
3. `AcrossDocumentsPass` reads the texts again, a shard a task, and writes what `Verdicts` decides of each.
"""

import json
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from leanpipe.core.files import publish_folder, written_whole
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.decontam.decontaminate import DecontaminateConfig, OverlapIndex
from leanpipe.corpus.dedup.column_files import ColumnWriter, read_column
from leanpipe.corpus.dedup.duplicates import (
    DocumentIndex,
    Pairs,
    Segment,
    exact_pairs,
    near_pairs,
    repeated_paragraphs,
)
from leanpipe.corpus.dedup.minhash import bands
from leanpipe.corpus.earlier_splits import EarlierSplits
from leanpipe.corpus.passes.document_columns import COLUMNS, paragraphs
from leanpipe.corpus.passes.execution import run_tasks, worker_count
from leanpipe.corpus.split import SPLITS, fill_empty_splits
from leanpipe.corpus.tables import ACCOUNT, DOCUMENTS, TableWriter, read_batches, read_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Segments:
    """Where the columns of all documents lie: those of earlier runs, then the new shards'."""

    base: tuple[Path, ...]
    new: tuple[Path, ...]
    permutations: int

    def index(self) -> DocumentIndex:
        """Map the columns of all documents into memory."""
        folders = (*self.base, *self.new)
        return DocumentIndex([Segment(path, self.permutations) for path in folders], len(self.base))


@dataclass(frozen=True)
class _NearDuplicates:
    """Work for an executor: task i looks for near duplicates by some of the bands."""

    segments: Segments
    config: CleanConfig
    tasks: int
    folder: Path

    def __call__(self, task: int) -> None:
        final = self.folder / f"near-{task:05d}.npz"
        if final.exists():
            return
        index = self.segments.index()
        gone: np.ndarray = np.zeros(len(index), np.bool_)
        gone[np.load(self.folder / "exact.npz")["later"]] = True
        pairs = near_pairs(index, gone, self.config.duplicates, task, self.tasks)
        _save(final, **pairs._asdict())


def find_duplicates(
    segments: Segments, config: CleanConfig, folder: Path, earlier: EarlierSplits | None = None
) -> None:
    """Write to `folder` what repeats what: `exact.npz`, `near.npz` (see `Pairs`), `repeated.npz`, `splits.npz`."""
    folder.mkdir(parents=True, exist_ok=True)
    index, nothing = segments.index(), Pairs.merge([])

    # Whole documents: the very same text first, then, among what is left, almost the same.
    exact = exact_pairs(index) if config.duplicates.exact else nothing
    _save(folder / "exact.npz", **exact._asdict())
    near = _near(segments, config, folder) if config.duplicates.near and len(index) else nothing
    _save(folder / "near.npz", **near._asdict())
    gone: np.ndarray = np.zeros(len(index), np.bool_)
    gone[exact.later] = gone[near.later] = True

    # Paragraphs, of the documents that stay.
    if config.duplicates.paragraphs:
        repeated = repeated_paragraphs(index, gone)[len(segments.base) :]
        _save(
            folder / "repeated.npz",
            **{path.name: one for path, one in zip(segments.new, repeated, strict=True)},
        )

    # The split of each, which the documents that stay decide together where chance leaves one empty.
    _save(folder / "splits.npz", **_splits(index, gone, segments, earlier))


def index_held_out(segments: Segments, config: DecontaminateConfig, folder: Path) -> Path | None:
    """Write the index of the held-out documents to `folder`; None if documents are not compared with them."""
    if not (config.enabled and config.held_out):
        return None
    folders = (*segments.base, *segments.new)
    hashes = [read_column(path / "held_out.u64", np.uint64) for path in folders]
    counts = [read_column(path / "held_out_counts.u32", np.uint32) for path in folders]
    OverlapIndex.of_hashes("held out", hashes, config, counts).save(folder)
    return folder


def _near(segments: Segments, config: CleanConfig, folder: Path) -> Pairs:
    count, _ = bands(config.duplicates.threshold, config.duplicates.permutations)
    # What one more process would find is not worth its start, but for many documents.
    tasks = min(count, worker_count(config.execution)) if len(segments.index()) > 100_000 else 1
    run_tasks(_NearDuplicates(segments, config, tasks, folder), tasks, config.execution, folder / "logs")
    return Pairs.merge([Pairs(**np.load(folder / f"near-{task:05d}.npz")) for task in range(tasks)])


def _splits(
    index: DocumentIndex, gone: "NDArray[np.bool_]", segments: Segments, earlier: EarlierSplits | None
) -> dict[str, "NDArray[np.uint8]"]:
    """Decide the split of each new document, by shard. What earlier runs hold stays where it is."""
    if not len(index):
        return {}
    splits = np.concatenate([segment.splits for segment in index.segments])
    if not segments.base:
        hashes = np.concatenate([segment.hashes[:, 0] for segment in index.segments])
        last = earlier.last_of(hashes[~gone]) if earlier else None
        splits[~gone] = fill_empty_splits(splits[~gone], hashes[~gone], last)
    parts = np.split(splits, index.starts[1:-1])[len(segments.base) :]
    return {path.name: part for path, part in zip(segments.new, parts, strict=True)}


@dataclass(frozen=True)
class AcrossDocumentsPass:
    """The second pass as work for an executor: task i writes what becomes of shard i's documents to `folder/NNNNN`.

    There: `<split>.parquet`, `account.parquet`, `index/` (the columns of what is kept) and `kept.json`.
    """

    segments: Segments
    config: CleanConfig
    found: Path
    """What `find_duplicates` wrote."""
    held_out: Path | None
    """Index of the held-out documents, for those that are learnt from."""
    folder: Path

    def __call__(self, task: int) -> None:
        shard = self.segments.new[task]
        final = self.folder / shard.name
        if final.exists():
            return
        partial = final.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        verdicts = Verdicts(self.segments, task, self.config, self.found, self.held_out)
        _write(shard, partial, verdicts, self.segments.permutations)
        publish_folder(partial, final)


class Verdict(NamedTuple):
    """What becomes of one document."""

    text: str
    """Without the paragraphs that were there before."""
    split: str
    """Nothing if it is dropped."""
    rule: str = ""
    value: float = 0.0
    detail: str = ""
    copy_of: str = ""
    """The id of the document that it repeats, if it is dropped for that."""

    def columns(self) -> dict[str, Any]:
        """Return those columns of the account that it decides."""
        outcome = {
            "outcome": "dropped" if self.rule else "kept",
            "split": self.split,
            "characters": len(self.text),
        }
        return outcome | {"rule": self.rule, "value": self.value, "detail": self.detail}


class Verdicts:
    """The rules on what documents say about each other, in their order, for the documents of one new shard."""

    def __init__(
        self, segments: Segments, shard: int, config: CleanConfig, found: Path, held_out: Path | None
    ):
        """`found` is what `find_duplicates` wrote, `held_out` what `index_held_out` did."""
        self._config = config
        self._index = segments.index()
        self._start = int(self._index.starts[len(segments.base) + shard])
        name = segments.new[shard].name
        self._pairs = {
            rule: Pairs(**np.load(found / f"{kind}.npz"))
            for rule, kind in (("duplicates.exact", "exact"), ("duplicates.near", "near"))
        }
        self._splits = np.load(found / "splits.npz")[name] if len(self._index) else []
        self._counts = self._index.place(self._start)[0].paragraph_counts if len(self._index) else []
        repeated = found / "repeated.npz"
        self._repeated = np.load(repeated)[name] if repeated.exists() else None
        self._paragraph = 0
        self._held_out = OverlapIndex.load(held_out) if held_out else None

    def of(self, row: int, text: str) -> Verdict:
        """Decide on the shard's document number `row`; rows must come in their order."""
        split = SPLITS[self._splits[row]]
        repeated = self._next_repeated(row)

        # Repetitions of a whole document.
        for rule, pairs in self._pairs.items():
            at = int(np.searchsorted(pairs.later, self._start + row))
            if at < len(pairs.later) and pairs.later[at] == self._start + row:
                original = self._index.id(int(pairs.earlier[at]))
                return Verdict(text, "", rule, float(pairs.similarity[at]), f"of {original}", original)

        # Repeated paragraphs are taken out; a document that has no others goes.
        if repeated is not None and repeated.any():
            text = self._without(text, repeated)
            if not text.strip():
                return Verdict(text, "", "duplicates.paragraphs", 1.0, "every paragraph was there before")

        # What is measured on must not be learnt, so this is asked of what is left, and of training documents alone.
        if self._held_out and split == "train" and (overlap := self._held_out.overlap(text)):
            return Verdict(text, "", overlap.rule, overlap.value, overlap.detail)
        return Verdict(text, split)

    def _next_repeated(self, row: int) -> "NDArray[np.bool_] | None":
        if self._repeated is None:
            return None
        start, self._paragraph = self._paragraph, self._paragraph + int(self._counts[row])
        return self._repeated[start : self._paragraph]

    def _without(self, text: str, repeated: "NDArray[np.bool_]") -> str:
        flags = iter(repeated)
        least = self._config.duplicates.paragraph_characters
        return "\n\n".join(one for one in paragraphs(text) if len(one) < least or not next(flags))


def _write(shard: Path, folder: Path, verdicts: Verdicts, permutations: int) -> None:
    # The account names every document, `documents.parquet` holds those of which something is left to be decided.
    documents = read_rows(shard / "documents.parquet")
    kept: list[str] = []
    with ExitStack() as stack:
        splits = {
            name: stack.enter_context(TableWriter(folder / f"{name}.parquet", DOCUMENTS)) for name in SPLITS
        }
        account = stack.enter_context(TableWriter(folder / "account.parquet", ACCOUNT))
        for batch in read_batches(shard / "account.parquet"):
            if batch["outcome"].index("").as_py() < 0:
                account.write_batch(batch)  # nothing is left to be decided
                continue
            for row in batch.to_pylist():
                if row["outcome"] != "dropped":
                    document = next(documents)
                    verdict = verdicts.of(len(kept), document["text"])
                    kept.append(verdict.split)
                    row |= verdict.columns()
                    if verdict.split:
                        splits[verdict.split].write(document | {"text": verdict.text})
                account.write(row)

    # What the runs that come after this one compare their documents with.
    _write_index(
        Segment(shard, permutations), folder / "index", np.array([bool(split) for split in kept], np.bool_)
    )
    (folder / "kept.json").write_text(json.dumps(Counter(kept)))


def _write_index(segment: Segment, folder: Path, kept: "NDArray[np.bool_]") -> None:
    """Write the columns of the documents that are kept."""
    paragraphs_kept = np.repeat(kept, segment.paragraph_counts) if len(segment.paragraph_counts) else kept[:0]
    columns = {
        "ids.s24": segment.ids,
        "hashes.u64": segment.hashes,
        "splits.u8": segment.splits,
        "signatures.u32": segment.signatures,
        "paragraph_counts.u32": segment.paragraph_counts,
    }
    for name, values in columns.items():
        _save_column(folder / name, values[kept] if len(values) else values)
    _save_column(folder / "paragraphs.u64", segment.paragraphs[paragraphs_kept])
    # Also of held-out documents that repeat others: theirs are the others' too.
    for name in ("held_out.u64", "held_out_counts.u32"):
        shutil.copyfile(segment.folder / name, folder / name)


def _save_column(path: Path, values: "NDArray[Any]") -> None:
    writer = ColumnWriter(path, COLUMNS[path.name])
    writer.append(values)
    writer.close()


def _save(path: Path, **arrays: Any) -> None:
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)
