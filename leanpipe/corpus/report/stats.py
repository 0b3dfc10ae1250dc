"""What cleaning did, counted from the folder that it wrote: a batch of rows in memory at a time."""

import heapq
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leanpipe.corpus.document import EXCERPT
from leanpipe.corpus.passes.publish import COUNTS
from leanpipe.corpus.report.quantile_sketch import QuantileSketch
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.tables import count_documents, read_account, read_batches, split_files

if TYPE_CHECKING:
    import pyarrow

SAMPLES = 3
_PASSAGES = 20  # documents of which the overlap with an evaluation set is shown
_KINDS = 30  # endings of file names that are told apart
_ENDING = r"^.*?(\.[A-Za-z0-9]{1,8}(?:\.(?:gz|zst|bz2|xz))?)?(?:#\d+)?$"


class SampleDocument(NamedTuple):
    """A document for a person to judge. Those with the smallest ids are as good as drawn by chance, and stay the same."""

    id: str
    source: str
    value: float
    text: str


@dataclass
class RuleStats:
    """What one rule dropped."""

    documents: int = 0
    characters: int = 0
    """As they were read."""
    measured: QuantileSketch = field(default_factory=QuantileSketch)
    samples: list[SampleDocument] = field(default_factory=list)


@dataclass
class SplitStats:
    """One split, as it lies on disk; bytes are of UTF-8."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0


@dataclass
class CorpusStats:
    """Everything that a person is told about a cleaned corpus."""

    records: int = 0
    """Files passed over, and lines, rows, mails, pages and whole files that the readers came upon."""
    lost: dict[str, int] = field(default_factory=dict)
    """By file, or by the step after reading, how many of them are nowhere to be found: a mistake of ours."""
    documents: int = 0
    kept: int = 0
    rules: dict[str, RuleStats] = field(default_factory=dict)
    """By name, the one that dropped most first."""
    splits: dict[str, SplitStats] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    """Documents by the ending of their file's name."""
    languages: Counter[str] = field(default_factory=Counter)
    """Documents read, by language."""
    languages_kept: Counter[str] = field(default_factory=Counter)
    lengths_read: QuantileSketch = field(default_factory=QuantileSketch)
    """Characters of every document as it was read, markup included."""
    lengths_kept: QuantileSketch = field(default_factory=QuantileSketch)
    """Characters of every document that was kept, as it was kept."""
    redacted: dict[str, int] = field(default_factory=dict)
    """Personal data that was replaced, by kind."""
    documents_redacted: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    """What else was counted while reading: documents repaired, attachments left out, pages rescued, …"""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many files, or lines of them, could not be read, by reason."""
    skipped_examples: dict[str, tuple[str, str]] = field(default_factory=dict)
    """(source, detail) of the first, by reason."""
    samples: list[SampleDocument] = field(default_factory=list)
    """Of what was kept."""
    passages: list[SampleDocument] = field(default_factory=list)
    """Documents that hold part of an evaluation set, with the passage."""

    @property
    def dropped(self) -> int:
        """Count the documents that any rule dropped."""
        return sum(rule.documents for rule in self.rules.values())

    @property
    def unaccounted(self) -> int:
        """Count the records that were neither kept nor dropped nor skipped; negative if there are more than came in."""
        return self.records - self.kept - self.dropped - self.skipped.total()

    def groups(self) -> Counter[str]:
        """Count documents dropped by what their rule's name begins with."""
        groups: Counter[str] = Counter()
        for name, rule in self.rules.items():
            groups[name.split(".")[0]] += rule.documents
        return groups


def compute_corpus_stats(documents: Path) -> CorpusStats:
    """Count what `clean` wrote to `documents`.

    Raises RuntimeError if a document is neither kept nor dropped, or is not where the account says: a mistake of ours.
    """
    stats = CorpusStats()
    for batch in read_account(documents):
        _count_account(stats, batch)
    stats.rules = dict(sorted(stats.rules.items(), key=lambda item: (-item[1].documents, item[0])))
    in_account = {name: split.documents for name, split in stats.splits.items()}
    for name in SPLITS:
        _count_split(stats, documents, name)
    _check(stats, in_account, documents)
    _show_skipped(stats, documents / "skipped.parquet")
    counts = json.loads((documents / COUNTS).read_text())
    stats.redacted, stats.counted = counts["redacted"], counts["counted"]
    stats.skipped = Counter(counts["skipped_by_reason"])
    stats.records, stats.lost = counts["met"].get("records", 0), counts["unaccounted"]
    if between := counts["met"].get("documents", 0) - stats.documents:
        stats.lost["between reading and the account"] = between
    return stats


def _check(stats: CorpusStats, in_account: dict[str, int], documents: Path) -> None:
    if stats.documents != stats.kept + stats.dropped:
        raise RuntimeError(
            f"{documents}: {stats.documents} documents were read, but {stats.kept} kept and {stats.dropped} dropped"
        )
    on_disk = {name: number for name in SPLITS if (number := count_documents(documents, name))}
    if on_disk != in_account:
        raise RuntimeError(
            f"{documents}: the account says {in_account}, the files of the splits hold {on_disk}"
        )


def _count_account(stats: CorpusStats, batch: "pyarrow.RecordBatch") -> None:
    import pyarrow.compute as pc

    kept = batch.filter(pc.equal(batch["outcome"], "kept"))
    dropped = batch.filter(pc.equal(batch["outcome"], "dropped"))
    stats.documents += batch.num_rows
    stats.kept += kept.num_rows
    stats.lengths_read.add(_numbers(batch["characters_read"]))
    stats.lengths_kept.add(_numbers(kept["characters"]))
    stats.documents_redacted += pc.sum(pc.greater(kept["redactions"], 0)).as_py() or 0
    stats.languages.update(_counted(batch["language"]))
    stats.languages_kept.update(_counted(kept["language"]))
    _count_kinds(stats.kinds, batch["source"])
    for name, documents in _counted(kept["split"]).items():
        stats.splits.setdefault(name, SplitStats()).documents += documents
    for name in _counted(dropped["rule"]):
        rows = dropped.filter(pc.equal(dropped["rule"], name))
        _count_rule(stats.rules.setdefault(name, RuleStats()), rows)
        if name.startswith("decontaminate."):
            stats.passages = _smallest(stats.passages, _PASSAGES, rows, "detail")


def _count_rule(rule: RuleStats, rows: "pyarrow.RecordBatch") -> None:
    import pyarrow.compute as pc

    rule.documents += rows.num_rows
    rule.characters += pc.sum(rows["characters_read"]).as_py()
    rule.measured.add(_numbers(rows["value"]))
    rule.samples = _smallest(rule.samples, SAMPLES, rows, "detail")


def _count_kinds(kinds: Counter[str], sources: "pyarrow.Array") -> None:
    import pyarrow.compute as pc

    for ending, documents in _counted(pc.replace_substring_regex(sources, _ENDING, r"\1")).items():
        known = ending in kinds or len(kinds) < _KINDS
        kinds[(ending or "none") if known else "other"] += documents


def _count_split(stats: CorpusStats, documents: Path, name: str) -> None:
    """Characters and bytes come from the texts themselves, for nobody but they can know."""
    import pyarrow.compute as pc

    split = stats.splits[name] = SplitStats()
    for path in split_files(documents, name):
        for batch in read_batches(path, ["id", "source", "text"]):
            split.documents += batch.num_rows
            split.characters += pc.sum(pc.utf8_length(batch["text"])).as_py()
            split.bytes += pc.sum(pc.binary_length(batch["text"])).as_py()
            stats.samples = _smallest(stats.samples, SAMPLES, batch, "text")


def _show_skipped(stats: CorpusStats, path: Path) -> None:
    for batch in read_batches(path):
        for row in batch.to_pylist():
            stats.skipped_examples.setdefault(row["reason"], (row["source"], row["detail"]))


def _smallest(
    samples: list[SampleDocument], most: int, rows: "pyarrow.RecordBatch", text: str
) -> list[SampleDocument]:
    """The `most` samples with the smallest ids, of those so far and `rows`."""
    import pyarrow.compute as pc

    first = rows.take(pc.select_k_unstable(rows["id"], most, sort_keys=[("", "ascending")]))
    texts = pc.utf8_slice_codeunits(first[text], 0, EXCERPT).to_pylist()
    values = first["value"].to_pylist() if "value" in first.schema.names else [0.0] * len(texts)
    new = map(SampleDocument, first["id"].to_pylist(), first["source"].to_pylist(), values, texts)
    return heapq.nsmallest(most, [*samples, *new])


def _counted(column: "pyarrow.Array") -> dict[str, int]:
    return {row["values"]: row["counts"] for row in column.value_counts().to_pylist()}


def _numbers(column: "pyarrow.Array") -> Any:
    return column.to_numpy(zero_copy_only=False)
