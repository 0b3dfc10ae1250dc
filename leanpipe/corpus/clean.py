"""Stage `clean`: text as it lies there to documents worth learning from, and an account of all the others.

Three steps, each in a module of `passes/`, each continued where it was killed; the first two are spread over the shards
of the corpus by an executor:

1. `per_document` reads, checks and redacts every document by itself.
2. `across_documents` finds what they repeat of each other, and of the held-out ones.
3. `publish` gives the files of what is kept their places, beside those of an earlier result.
"""

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, ExpectedInputs, without_device
from leanpipe.core.lineage import NOTHING
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Dataset, Page, Summary, stage
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.decontam.decontaminate import index_evaluation_sets
from leanpipe.corpus.earlier_splits import STAYED, EarlierSplits, find_earlier_splits
from leanpipe.corpus.incremental import find_base_corpus
from leanpipe.corpus.passes.across_documents import (
    AcrossDocumentsPass,
    Segments,
    find_duplicates,
    index_held_out,
)
from leanpipe.corpus.passes.execution import check_execution, run_tasks, worker_count
from leanpipe.corpus.passes.per_document import PerDocumentPass, make_shards
from leanpipe.corpus.passes.publish import BaseCorpus, RunFolders, publish_result, write_skipped
from leanpipe.corpus.report.corpus_report import write_corpus_report
from leanpipe.corpus.report.data_card import balance
from leanpipe.corpus.report.stats import CorpusStats, compute_corpus_stats
from leanpipe.corpus.rules import GROUPS, RESCUED, UNSURE
from leanpipe.corpus.sources.file_index import FileIndex, SourceFile
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.tables import DOCUMENTS, count_documents

__all__ = ["CleanConfig", "CleanInputs", "clean"]

logger = logging.getLogger(__name__)

_TEXT_PROCESS = 460_000_000
"""Bytes of a process that cleans, beside the shard it works on. Measured, as is the factor of the shards, on 15 and 61 MB of
source code."""


@dataclasses.dataclass(frozen=True)
class CleanInputs:
    """What `clean` reads."""

    corpus: tuple[Path, ...]
    """File indexes of what is to be read (see `FileIndex`)."""
    base: Path | None = None
    """An earlier result with the same settings: what it holds is not read again, and what repeats it is dropped."""
    # Elsewhere these are called evaluation sets; here the name is part of the keys of stored results, and stays.
    evaluations: tuple[Path, ...] = ()
    """Evaluation sets, of which no document may hold a passage."""
    earlier: tuple[Path, ...] = ()
    """Earlier results with other settings: what they had in train stays there (see `earlier_splits`)."""


def estimate_clean(config: CleanConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `clean` takes on the files of the corpus; nothing is known of one whose size is not."""
    corpus = sum(one.facts.get("bytes", 0) or _listed_bytes(one.path) for one in inputs["corpus"])
    if not corpus:
        return Estimate()
    shard = min(corpus, round(config.execution.shard_megabytes * 1e6))
    workers = min(worker_count(config.execution), max(1, corpus // max(1, shard)))
    if config.execution.executor != "local":
        workers = 1  # the others are on other machines
    parts = {"processes": workers * _TEXT_PROCESS, "shards": round(workers * 1.6 * shard)}
    return without_device(kind, round(0.5 * corpus), parts, {"bytes": corpus})


def _listed_bytes(listing: Path | None) -> int:
    """Bytes of the listed files as they lie there, compressed ones compressed."""
    return sum(file.size for file in FileIndex.load(listing).files) if listing else 0


@stage(
    version=5,
    estimate=estimate_clean,
    base=find_base_corpus,
    earlier=find_earlier_splits,
    reads={"evaluations": NOTHING, "earlier": NOTHING},
    pages=(Page("card.md", "data-card", "What is in the corpus, what was left out and why"),),
    dataset=Dataset("documents", tuple(DOCUMENTS), rows="documents_kept"),
    groups=dict.fromkeys(("documents_in", "files_read", "records_in"), NOT_COMPARED),
)
def clean(config: CleanConfig, inputs: CleanInputs, out: Path, report: Report) -> Summary:
    """Write `train/`, `validation/`, `test/`, `account/`, `index/` (each a file or folder per shard) and `held.json`.

    Memory does not grow with the corpus's texts. Raises UserError if there is nothing to read or nothing left.
    """
    file_indexes = [FileIndex.load(path) for path in inputs.corpus]
    new = clean_documents(config, inputs, file_indexes, out, report)
    roots = [file_index.reference for file_index in file_indexes]
    stats = write_corpus_report(out / "report", out, config.model_dump(mode="json"), roots)
    _warn_of_skipped(stats)
    if stats.unaccounted or stats.lost:
        logger.error(balance(stats))
    if stayed := stats.counted.get(STAYED):
        logger.warning(
            "%d documents would be held out by these shares, but models learned from them under an earlier split: they stay, "
            "and of new documents the shares are what clean.split says",
            stayed,
        )
    summary = _summary(stats, new)
    report.metrics(summary)
    return summary


def clean_documents(
    config: CleanConfig, inputs: CleanInputs, file_indexes: Sequence[FileIndex], out: Path, report: Report
) -> int:
    """Write all that `clean` writes but its report; returns how many files were read."""
    check_execution(config.execution)
    config = config.of_corpus(file for file_index in file_indexes for file in file_index.files)
    folders, base = RunFolders(out), BaseCorpus.load(inputs.base)
    new = [file for file_index in file_indexes for file in file_index.files if not base.has(file)]
    shards = make_shards(new, config.execution.shard_megabytes)
    names = [f"{len(base.shards) + number:05d}" for number in range(len(shards))]
    earlier = EarlierSplits.gather(inputs.earlier, folders.earlier) if inputs.earlier else None
    _first_pass(shards, names, config, inputs, folders, report)
    _second_pass(names, config, base, folders, earlier)
    publish_result(names, base, new, folders, config.split.test)
    write_skipped(out, file_indexes)
    _check_left(out, [file_index.reference for file_index in file_indexes])
    shutil.rmtree(folders.work)
    return len(new)


def _first_pass(
    shards: Sequence[tuple[SourceFile, ...]],
    names: Sequence[str],
    config: CleanConfig,
    inputs: CleanInputs,
    folders: RunFolders,
    report: Report,
) -> None:
    total = sum(file.size for shard in shards for file in shard) / 1e6
    folders.first.mkdir(parents=True, exist_ok=True)
    evaluation_index = index_evaluation_sets(
        inputs.evaluations, config.decontaminate, folders.work / "evaluation_sets"
    )

    def watch() -> None:
        done = sum(int(path.read_text() or 0) for path in folders.first.glob("*/bytes_read"))
        report.progress(done / 1e6, total, "MB of the corpus")

    earlier = folders.earlier if inputs.earlier else None
    work = PerDocumentPass(tuple(shards), tuple(names), config, evaluation_index, folders.first, earlier)
    run_tasks(work, len(shards), config.execution, folders.work / "logs" / "first", watch)


def _second_pass(
    names: Sequence[str],
    config: CleanConfig,
    base: BaseCorpus,
    folders: RunFolders,
    earlier: EarlierSplits | None,
) -> None:
    new = tuple(folders.first / name for name in names)
    segments = Segments(base.indexes(), new, config.duplicates.permutations)
    find_duplicates(segments, config, folders.found, earlier)
    held_out = index_held_out(segments, config.decontaminate, folders.work / "held_out")
    work = AcrossDocumentsPass(segments, config, folders.found, held_out, folders.second)
    folders.second.mkdir(exist_ok=True)
    run_tasks(work, len(names), config.execution, folders.work / "logs" / "second")


def _check_left(out: Path, corpus: Sequence[str]) -> None:
    kept = sum(count_documents(out, split) for split in SPLITS)
    if kept >= len(SPLITS):
        return
    stats = compute_corpus_stats(out)
    where = ", ".join(corpus)
    if not stats.documents:
        listed = ", ".join(f"{number} × {reason}" for reason, number in stats.skipped.most_common(3))
        raise UserError(
            f"no document could be read from {where} ({listed or 'its files hold none'}): check the files"
        )
    left = f"only {kept} of {stats.documents}" if kept else f"none of {stats.documents}"
    problem = (
        f"{left} documents from {where} left after cleaning, but train, validation and test need one each"
    )
    if stats.documents < len(SPLITS):
        raise UserError(
            f"{problem}: add documents, or set clean.read.text_files to lines if each line of a file is one"
        )
    rule, most = next(iter(stats.rules.items()))
    raise UserError(f"{problem}; most ({most.documents}) were dropped by {rule}: {_advice(rule)}")


def _advice(rule: str) -> str:
    if rule in ("empty", "extract.nothing"):
        return "their files hold no text, so add others"
    if rule == "extract.max_characters":
        return "raise clean.extract.max_characters, or add smaller pages"
    if rule.startswith("duplicates."):
        return f"add other documents, or switch off clean.{rule}"
    return f"add other documents, or change clean.{rule}"


def _warn_of_skipped(stats: CorpusStats) -> None:
    if stats.skipped:
        reasons = ", ".join(f"{number} × {reason}" for reason, number in stats.skipped.most_common())
        logger.warning(
            "%d files or lines were skipped: %s (see skipped.parquet)", stats.skipped.total(), reasons
        )


def _summary(stats: CorpusStats, new: int) -> Summary:
    groups = stats.groups()
    return {
        "documents_in": stats.documents,
        "documents_kept": stats.kept,
        "documents_dropped": stats.dropped,
        "kept_share": round(stats.kept / stats.documents, 4),
        "records_in": stats.records,
        "records_unaccounted": abs(stats.unaccounted),
        **{f"dropped_{group}": groups[group] for group in GROUPS},
        "characters_kept": sum(split.characters for split in stats.splits.values()),
        **{f"{name}_documents": stats.splits[name].documents for name in SPLITS},
        "files_read": new,
        "files_or_lines_skipped": stats.skipped.total(),
        "documents_repaired": stats.counted.get("documents repaired", 0),
        "pages_rescued": stats.counted.get(RESCUED, 0),
        "pages_unsure": stats.counted.get(UNSURE, 0),
        "redactions": sum(stats.redacted.values()),
    }
