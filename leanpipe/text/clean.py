"""Stage `clean`: folders of text, as they lie there, to documents worth learning from, and the reasons for the rest."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from leanpipe.config import StageConfig
from leanpipe.errors import UserError
from leanpipe.report import Report
from leanpipe.stage import Summary, stage
from leanpipe.text import describe, tables
from leanpipe.text.document import Document, Dropped, Fault
from leanpipe.text.duplicates import DuplicatesConfig, SeenTexts
from leanpipe.text.extract import main_text
from leanpipe.text.files import ReadLog, check_corpus, list_files
from leanpipe.text.filters import QualityConfig, RepetitionConfig, quality_fault, repetition_fault
from leanpipe.text.language import detect, known_languages
from leanpipe.text.normalise import normalise
from leanpipe.text.read import read_files
from leanpipe.text.split import SPLITS, SplitConfig, split

__all__ = ["CleanConfig", "CleanInputs", "check_corpus", "clean"]

logger = logging.getLogger(__name__)

_EVERY = 50  # documents between two messages of progress
GROUPS = ("empty", "languages", "quality", "repetition", "duplicates")
"""What rules begin with, in the order in which they are applied."""


class CleanConfig(StageConfig):
    """What is read of a corpus, and what of it is good enough to learn from."""

    text_columns: tuple[str, ...] = Field(("text", "content"), min_length=1, max_length=20)
    """Columns of JSON lines and Parquet files that may hold the text; of several, the first counts."""
    text_files: Literal["document", "lines"] = "document"
    """Whether a .txt or .md file is one document, or each of its lines is one."""
    languages: tuple[str, ...] = Field((), max_length=100)
    """Languages that are kept, as ISO 639 codes such as en or de; none named: all are."""
    language_sample: int = Field(1200, ge=60, le=1_000_000)
    """Characters of a document by which its language is told."""
    quality: QualityConfig = QualityConfig()
    """Bounds on the words and lines of a document."""
    repetition: RepetitionConfig = RepetitionConfig()
    """Bounds on what a document repeats within itself."""
    duplicates: DuplicatesConfig = DuplicatesConfig()
    """Which documents count as repetitions of earlier ones."""
    split: SplitConfig = SplitConfig()
    """Which share of the documents is held out."""

    @field_validator("languages")
    @classmethod
    def _languages_exist(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if languages and (unknown := set(languages) - known_languages()):
            raise ValueError(
                f"unknown language codes: {', '.join(sorted(unknown))} (known: en, de, fr, zh, …)"
            )
        return languages


@dataclasses.dataclass(frozen=True)
class CleanInputs:
    corpus: tuple[Path, ...]
    """Folders of text, or single files."""


@dataclasses.dataclass
class Sieved:
    """What became of every document that was read."""

    kept: list[Document] = dataclasses.field(default_factory=list)
    dropped: list[Dropped] = dataclasses.field(default_factory=list)
    lengths_read: list[int] = dataclasses.field(default_factory=list)
    """Characters of each document as it was read, markup included."""
    languages: Counter[str] = dataclasses.field(default_factory=Counter)
    """How many documents with text are in each language."""

    @property
    def count(self) -> int:
        return len(self.kept) + len(self.dropped)


@stage(version=1)
def clean(config: CleanConfig, inputs: CleanInputs, out: Path, report: Report) -> Summary:
    """Write `train`, `validation` and `test.parquet` (id, text, source) and `dropped.parquet` (with rule and value).

    Kept texts are held in memory until they are written. Raises UserError if there is nothing to read or nothing left.
    """
    check_corpus(inputs.corpus)
    log = ReadLog()
    files = list_files(inputs.corpus, log)
    by_line = config.text_files == "lines"
    sieved = _sieve(read_files(files, log, config.text_columns, by_line), config, log, report)
    _check_left(sieved, log, inputs.corpus)
    if log.skipped:
        logger.warning(
            "%d files or lines were skipped: %s (all in report/skipped.csv)", len(log.skipped), _reasons(log)
        )
    splits = split(sieved.kept, config.split)
    for name in SPLITS:
        tables.write_documents(out / f"{name}.parquet", splits[name])
    tables.write_dropped(out / "dropped.parquet", sieved.dropped)
    describe.describe(out / "report", sieved.kept, sieved.dropped, sieved.lengths_read, sieved.languages, log)
    summary = _summary(sieved, splits, log)
    report.metrics(summary)
    return summary


def _sieve(documents: Iterator[Document], config: CleanConfig, log: ReadLog, report: Report) -> Sieved:
    """Every document through every rule."""
    sieved, seen = Sieved(), SeenTexts(config.duplicates)
    for raw in documents:
        text = normalise(main_text(raw.text) if raw.html else raw.text)
        document = dataclasses.replace(raw, text=text, html=False)
        sieved.lengths_read.append(len(raw.text))
        fault = _own_fault(document, config, sieved.languages) or seen.fault(document)
        if fault:
            sieved.dropped.append(Dropped.because(fault, document))
        else:
            sieved.kept.append(document)
        if sieved.count % _EVERY == 0:
            report.progress(log.bytes_read / 1e6, log.bytes_total / 1e6, "MB of the corpus")
    report.progress(log.bytes_total / 1e6, log.bytes_total / 1e6, "MB of the corpus")
    return sieved


def _own_fault(document: Document, config: CleanConfig, languages: Counter[str]) -> Fault | None:
    """What is wrong with the document itself, whatever else the corpus holds. Its language is counted."""
    if not document.text.strip():
        return Fault("empty", 0.0)
    language = detect(document.text, config.language_sample)
    languages[language] += 1
    if config.languages and language not in config.languages:
        return Fault("languages", 0.0)
    return quality_fault(document.text, language, config.quality) or repetition_fault(
        document.text, language, config.repetition
    )


def _check_left(sieved: Sieved, log: ReadLog, corpus: Sequence[Path]) -> None:
    where = ", ".join(map(str, corpus))
    if not sieved.count:
        reasons = Counter(skipped.reason for skipped in log.skipped).most_common(3)
        listed = ", ".join(f"{count} × {reason}" for reason, count in reasons)
        raise UserError(
            f"no document could be read from {where} ({listed or 'its files hold none'}): check the files"
        )
    if len(sieved.kept) >= len(SPLITS):
        return
    left = f"only {len(sieved.kept)} of {sieved.count}" if sieved.kept else f"none of {sieved.count}"
    problem = (
        f"{left} documents from {where} left after cleaning, but train, validation and test need one each"
    )
    if sieved.count < len(SPLITS):
        raise UserError(
            f"{problem}: add documents, or set clean.text_files to lines if each line of a file is one"
        )
    rule, count = Counter(dropped.rule for dropped in sieved.dropped).most_common(1)[0]
    raise UserError(f"{problem}; most ({count}) were dropped by {rule}: {_advice(rule)}")


def _reasons(log: ReadLog) -> str:
    counts = Counter(skipped.reason for skipped in log.skipped).most_common()
    return ", ".join(f"{count} × {reason}" for reason, count in counts)


def _advice(rule: str) -> str:
    if rule == "empty":
        return "their files hold no text, so add others"
    if rule.startswith("duplicates."):
        return f"add other documents, or switch off clean.{rule}"
    return f"add other documents, or change clean.{rule}"


def _summary(sieved: Sieved, splits: dict[str, list[Document]], log: ReadLog) -> Summary:
    groups = Counter(dropped.rule.split(".")[0] for dropped in sieved.dropped)
    return {
        "documents_in": sieved.count,
        "documents_kept": len(sieved.kept),
        "documents_dropped": len(sieved.dropped),
        **{f"dropped_{group}": groups[group] for group in GROUPS},
        "kept_share": round(len(sieved.kept) / sieved.count, 4),
        "characters_kept": sum(len(document.text) for document in sieved.kept),
        **{f"{name}_documents": len(splits[name]) for name in SPLITS},
        "files_or_lines_skipped": len(log.skipped),
        "documents_repaired": len(log.repaired),
    }
