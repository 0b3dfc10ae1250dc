"""The second pass: what documents say about each other, and what becomes of each. Every shard writes its own files."""

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
from leanpipe.corpus.decontam.decontaminate import Overlap, OverlapIndex
from leanpipe.corpus.dedup.duplicates import (
    Index,
    Pairs,
    Segment,
    exact_pairs,
    near_pairs,
    repeated_paragraphs,
)
from leanpipe.corpus.dedup.minhash import bands
from leanpipe.corpus.passes.column_files import ColumnWriter
from leanpipe.corpus.passes.execution import run_tasks, workers
from leanpipe.corpus.passes.per_document import COLUMNS, paragraphs
from leanpipe.corpus.split import SPLITS, fill_empty_splits
from leanpipe.corpus.tables import ACCOUNT, DOCUMENTS, TableWriter, read_batches, read_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Segments:
    """Where the numbers of all documents lie: those of earlier runs, then the new shards'."""

    held: tuple[Path, ...]
    new: tuple[Path, ...]
    permutations: int

    def index(self) -> Index:
        return Index([Segment(path, self.permutations) for path in (*self.held, *self.new)], len(self.held))


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


def find_duplicates(segments: Segments, config: CleanConfig, folder: Path) -> None:
    """Write to `folder` what repeats what: `exact.npz`, `near.npz` (see `Pairs`), `repeated.npz`, `splits.npz`."""
    folder.mkdir(exist_ok=True)
    index, nothing = segments.index(), Pairs.together([])
    exact = exact_pairs(index) if config.duplicates.exact else nothing
    _save(folder / "exact.npz", **exact._asdict())
    near = _near(segments, config, folder) if config.duplicates.near and len(index) else nothing
    _save(folder / "near.npz", **near._asdict())
    gone: np.ndarray = np.zeros(len(index), np.bool_)
    gone[exact.later] = gone[near.later] = True
    if config.duplicates.paragraphs:
        repeated = repeated_paragraphs(index, gone)[len(segments.held) :]
        _save(
            folder / "repeated.npz",
            **{path.name: one for path, one in zip(segments.new, repeated, strict=True)},
        )
    _save(folder / "splits.npz", **_splits(index, gone, segments))


def _near(segments: Segments, config: CleanConfig, folder: Path) -> Pairs:
    count, _ = bands(config.duplicates.threshold, config.duplicates.permutations)
    # What one more process would find is not worth its start, but for many documents.
    tasks = min(count, workers(config.execution)) if len(segments.index()) > 100_000 else 1
    run_tasks(_NearDuplicates(segments, config, tasks, folder), tasks, config.execution, folder / "logs")
    return Pairs.together([Pairs(**np.load(folder / f"near-{task:05d}.npz")) for task in range(tasks)])


def _splits(index: Index, gone: "NDArray[np.bool_]", segments: Segments) -> dict[str, "NDArray[np.uint8]"]:
    """The split of each new document, by shard. What earlier runs hold stays where it is."""
    if not len(index):
        return {}
    splits = np.concatenate([segment.splits for segment in index.segments])
    if not segments.held:
        hashes = np.concatenate([segment.hashes[:, 0] for segment in index.segments])
        splits[~gone] = fill_empty_splits(splits[~gone], hashes[~gone])
    parts = np.split(splits, index.starts[1:-1])[len(segments.held) :]
    return {path.name: part for path, part in zip(segments.new, parts, strict=True)}


@dataclass(frozen=True)
class SecondPass:
    """Work for an executor: task i writes what becomes of shard i's documents to `folder/NNNNN`.

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
        verdicts = _Verdicts(self, task)
        _write(shard, partial, verdicts, self.segments.permutations)
        publish_folder(partial, final)


class _Verdict(NamedTuple):
    """What becomes of one document."""

    text: str
    split: str
    """Nothing if it is dropped."""
    rule: str = ""
    value: float = 0.0
    detail: str = ""

    def columns(self) -> dict[str, Any]:
        """Those columns of the account that it decides."""
        outcome = {
            "outcome": "dropped" if self.rule else "kept",
            "split": self.split,
            "characters": len(self.text),
        }
        return outcome | {"rule": self.rule, "value": self.value, "detail": self.detail}


class _Verdicts:
    """What was found out about the documents of one shard."""

    def __init__(self, work: SecondPass, task: int):
        self._config = work.config
        self._index = work.segments.index()
        self._start = int(self._index.starts[len(work.segments.held) + task])
        shard = work.segments.new[task].name
        self._pairs = {
            rule: Pairs(**np.load(work.found / f"{name}.npz"))
            for rule, name in (("duplicates.exact", "exact"), ("duplicates.near", "near"))
        }
        self._splits = np.load(work.found / "splits.npz")[shard] if len(self._index) else []
        self._counts = self._index.place(self._start)[0].paragraph_counts if len(self._index) else []
        repeated = work.found / "repeated.npz"
        self._repeated = np.load(repeated)[shard] if repeated.exists() else None
        self._paragraph = 0
        self._held_out = OverlapIndex.load(work.held_out) if work.held_out else None

    def of(self, row: int, text: str) -> _Verdict:
        """The verdict on the shard's document number `row`; rows must come in their order."""
        split = SPLITS[self._splits[row]]
        repeated = self._next_repeated(row)
        for rule, pairs in self._pairs.items():
            at = int(np.searchsorted(pairs.later, self._start + row))
            if at < len(pairs.later) and pairs.later[at] == self._start + row:
                detail = f"of {self._index.id(int(pairs.earlier[at]))}"
                return _Verdict(text, "", rule, float(pairs.similarity[at]), detail)
        if repeated is not None and repeated.any():
            text = self._without(text, repeated)
            if not text.strip():
                return _Verdict(text, "", "duplicates.paragraphs", 1.0, "every paragraph was there before")
        overlap = self._held_out.overlap(text) if self._held_out and split == "train" else None
        if overlap:
            return _contaminated(text, overlap)
        return _Verdict(text, split)

    def _next_repeated(self, row: int) -> "NDArray[np.bool_] | None":
        if self._repeated is None:
            return None
        start, self._paragraph = self._paragraph, self._paragraph + int(self._counts[row])
        return self._repeated[start : self._paragraph]

    def _without(self, text: str, repeated: "NDArray[np.bool_]") -> str:
        flags = iter(repeated)
        least = self._config.duplicates.paragraph_characters
        return "\n\n".join(one for one in paragraphs(text) if len(one) < least or not next(flags))


def _contaminated(text: str, overlap: Overlap) -> _Verdict:
    return _Verdict(text, "", overlap.rule, overlap.value, overlap.detail)


def _write(shard: Path, folder: Path, verdicts: _Verdicts, permutations: int) -> None:
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
    _write_index(
        Segment(shard, permutations), folder / "index", np.array([bool(split) for split in kept], np.bool_)
    )
    (folder / "kept.json").write_text(json.dumps(Counter(kept)))


def _write_index(segment: Segment, folder: Path, kept: "NDArray[np.bool_]") -> None:
    """The numbers of the documents that are kept, for the runs that come after this one."""
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
