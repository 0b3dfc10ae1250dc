"""Stage `clean`: text as it lies there to documents worth learning from, and an account of all the others.

Three steps, each spread over the shards of the corpus by an executor, each continued where it was killed: what every
document says by itself (`shard`), what they repeat of each other (`settle`), and the files of what is kept.
"""

import dataclasses
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, ExpectedInputs, without_device
from leanpipe.core.lineage import NOTHING
from leanpipe.core.report import Report
from leanpipe.core.stage import Dataset, Page, Summary, stage
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.decontam.decontaminate import OverlapIndex
from leanpipe.corpus.incremental import find_base
from leanpipe.corpus.passes.across_documents import SecondPass, Segments, find_duplicates
from leanpipe.corpus.passes.column_files import read_column
from leanpipe.corpus.passes.execution import check_execution, run_tasks
from leanpipe.corpus.passes.per_document import FirstPass, make_shards
from leanpipe.corpus.passes.publish import Held, Places, assemble, write_skipped
from leanpipe.corpus.report.corpus_report import describe
from leanpipe.corpus.report.stats import Totals, count
from leanpipe.corpus.sources.file_index import Listing, SourceFile
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.tables import DOCUMENTS, count_documents

__all__ = ["CleanConfig", "CleanInputs", "clean"]

logger = logging.getLogger(__name__)

_TEXT_PROCESS = 460_000_000
"""Bytes of a process that cleans, beside the shard it works on. Measured, as is the factor of the shards, on 15 and 61 MB of
source code."""

GROUPS = (
    "extract",
    "empty",
    "languages",
    "c4",
    "fineweb",
    "quality",
    "repetition",
    "decontaminate",
    "duplicates",
)
"""What rules begin with, in the order in which they are applied."""


@dataclasses.dataclass(frozen=True)
class CleanInputs:
    corpus: tuple[Path, ...]
    """Listings of what is to be read (see `leanpipe.text.listing`)."""
    base: Path | None = None
    """An earlier result with the same settings: what it holds is not read again, and what repeats it is dropped."""
    evaluations: tuple[Path, ...] = ()
    """Evaluation sets, of which no document may hold a passage."""


def estimate_clean(config: CleanConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `clean` takes on the files of the corpus; nothing is known of one whose size is not."""
    corpus = sum(one.facts.get("bytes", 0) or _listed_bytes(one.path) for one in inputs["corpus"])
    if not corpus:
        return Estimate()
    shard = min(corpus, round(config.execution.shard_megabytes * 1e6))
    workers = min(config.execution.workers or os.cpu_count() or 1, max(1, corpus // max(1, shard)))
    if config.execution.executor != "local":
        workers = 1  # the others are on other machines
    parts = {"processes": workers * _TEXT_PROCESS, "shards": round(workers * 1.6 * shard)}
    return without_device(kind, round(0.5 * corpus), parts, {"bytes": corpus})


def _listed_bytes(listing: Path | None) -> int:
    """Bytes of the listed files as they lie there, compressed ones compressed."""
    return sum(file.size for file in Listing.load(listing).files) if listing else 0


@stage(
    version=2,
    estimate=estimate_clean,
    base=find_base,
    reads={"evaluations": NOTHING},
    pages=(Page("card.md", "data-card", "What is in the corpus, what was left out and why"),),
    dataset=Dataset("documents", tuple(DOCUMENTS), rows="documents_kept"),
)
def clean(config: CleanConfig, inputs: CleanInputs, out: Path, report: Report) -> Summary:
    """Write `train/`, `validation/`, `test/`, `account/`, `index/` (each a file or folder per shard) and `held.json`.

    Memory does not grow with the corpus's texts. Raises UserError if there is nothing to read or nothing left.
    """
    listings = [Listing.load(path) for path in inputs.corpus]
    new = clean_documents(config, inputs, listings, out, report)
    roots = [listing.reference for listing in listings]
    totals = describe(out / "report", out, config.model_dump(mode="json"), roots)
    _warn_of_skipped(totals)
    summary = _summary(totals, new)
    report.metrics(summary)
    return summary


def clean_documents(
    config: CleanConfig, inputs: CleanInputs, listings: Sequence[Listing], out: Path, report: Report
) -> int:
    """All that `clean` writes but its report; returns how many files were read."""
    check_execution(config.execution)
    places = Places(out)
    held = Held.load(inputs.base)
    new = [file for listing in listings for file in listing.files if not held.has(file)]
    shards = make_shards(new, config.execution.shard_megabytes)
    names = [f"{len(held.shards) + number:05d}" for number in range(len(shards))]
    _first_pass(shards, names, config, inputs, places, report)
    _second_pass(names, config, inputs.base, held, places)
    assemble(names, held, new, inputs.base, places)
    write_skipped(out, listings)
    _check_left(out, [listing.reference for listing in listings])
    shutil.rmtree(places.work)
    return len(new)


def _first_pass(
    shards: Sequence[tuple[SourceFile, ...]],
    names: Sequence[str],
    config: CleanConfig,
    inputs: CleanInputs,
    places: Places,
    report: Report,
) -> None:
    total = sum(file.size for shard in shards for file in shard) / 1e6
    places.first.mkdir(parents=True, exist_ok=True)
    evaluations = None
    if config.decontaminate.enabled and inputs.evaluations:
        evaluations = places.work / "evaluations"
        OverlapIndex.of_files(inputs.evaluations, config.decontaminate).save(evaluations)

    def watch() -> None:
        done = sum(int(path.read_text() or 0) for path in places.first.glob("*/bytes_read"))
        report.progress(done / 1e6, total, "MB of the corpus")

    work = FirstPass(tuple(shards), tuple(names), config, evaluations, places.first)
    run_tasks(work, len(shards), config.execution, places.work / "logs" / "first", watch)


def _second_pass(
    names: Sequence[str], config: CleanConfig, base: Path | None, held: Held, places: Places
) -> None:
    segments = Segments(
        tuple(base / "index" / name for name in held.shards) if base else (),
        tuple(places.first / name for name in names),
        config.duplicates.permutations,
    )
    find_duplicates(segments, config, places.found)
    held_out = None
    if config.decontaminate.enabled and config.decontaminate.held_out:
        held_out = places.work / "held_out"
        folders = (*segments.held, *segments.new)
        hashes = [read_column(path / "held_out.u64", np.uint64) for path in folders]
        counts = [read_column(path / "held_out_counts.u32", np.uint32) for path in folders]
        OverlapIndex.of_hashes("held out", hashes, config.decontaminate, counts).save(held_out)
    work = SecondPass(segments, config, places.found, held_out, places.second)
    places.second.mkdir(exist_ok=True)
    run_tasks(work, len(names), config.execution, places.work / "logs" / "second")


def _check_left(out: Path, corpus: Sequence[str]) -> None:
    kept = sum(count_documents(out, split) for split in SPLITS)
    if kept >= len(SPLITS):
        return
    totals = count(out)
    where = ", ".join(corpus)
    if not totals.documents:
        listed = ", ".join(f"{number} × {reason}" for reason, number in totals.skipped.most_common(3))
        raise UserError(
            f"no document could be read from {where} ({listed or 'its files hold none'}): check the files"
        )
    left = f"only {kept} of {totals.documents}" if kept else f"none of {totals.documents}"
    problem = (
        f"{left} documents from {where} left after cleaning, but train, validation and test need one each"
    )
    if totals.documents < len(SPLITS):
        raise UserError(
            f"{problem}: add documents, or set clean.read.text_files to lines if each line of a file is one"
        )
    rule, most = next(iter(totals.rules.items()))
    raise UserError(f"{problem}; most ({most.documents}) were dropped by {rule}: {_advice(rule)}")


def _advice(rule: str) -> str:
    if rule in ("empty", "extract.nothing"):
        return "their files hold no text, so add others"
    if rule == "extract.max_characters":
        return "raise clean.extract.max_characters, or add smaller pages"
    if rule.startswith("duplicates."):
        return f"add other documents, or switch off clean.{rule}"
    return f"add other documents, or change clean.{rule}"


def _warn_of_skipped(totals: Totals) -> None:
    if totals.skipped:
        reasons = ", ".join(f"{number} × {reason}" for reason, number in totals.skipped.most_common())
        logger.warning(
            "%d files or lines were skipped: %s (see skipped.parquet)", totals.skipped.total(), reasons
        )


def _summary(totals: Totals, new: int) -> Summary:
    groups = totals.groups()
    return {
        "documents_in": totals.documents,
        "documents_kept": totals.kept,
        "documents_dropped": totals.dropped,
        "kept_share": round(totals.kept / totals.documents, 4),
        **{f"dropped_{group}": groups[group] for group in GROUPS},
        "characters_kept": sum(split.characters for split in totals.splits.values()),
        **{f"{name}_documents": totals.splits[name].documents for name in SPLITS},
        "files_read": new,
        "files_or_lines_skipped": totals.skipped.total(),
        "documents_repaired": totals.counted.get("documents repaired", 0),
        "pages_rescued": totals.counted.get("pages rescued by another parser", 0),
        "redactions": sum(totals.redacted.values()),
    }
