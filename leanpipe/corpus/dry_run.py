"""Stage `inspect`: a dry run of cleaning. A sample goes through every rule, and nothing is dropped.

The rules are those of cleaning itself: of one document in `rules`, of several in `passes/across_documents`.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.report import Report
from leanpipe.core.stage import Page, Summary, stage
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.decontam.decontaminate import index_evaluation_sets
from leanpipe.corpus.document import EXCERPT, Fault
from leanpipe.corpus.filters import (
    DocumentStatistics,
    fineweb_measures,
    quality_measures,
    repetition_measures,
)
from leanpipe.corpus.passes.across_documents import Segments, Verdicts, find_duplicates, index_held_out
from leanpipe.corpus.passes.document_columns import Columns
from leanpipe.corpus.passes.execution import ExecutionConfig
from leanpipe.corpus.report.dry_run_report import (
    INSPECTION,
    Example,
    Inspection,
    RuleFound,
    draw_measured,
    page,
)
from leanpipe.corpus.report.quantile_sketch import QuantileSketch
from leanpipe.corpus.rule_names import rule_bound
from leanpipe.corpus.rules import CheckedDocument, DocumentRules
from leanpipe.corpus.sources.file_index import FileIndex, SourceFile
from leanpipe.corpus.sources.read_log import ReadLog
from leanpipe.corpus.sources.sample import take_sample

Measured = dict[str, QuantileSketch]
"""What was measured of all documents, by rule."""


class SampleConfig(StageConfig):
    """How much of the corpus is looked at, and how much of it is shown."""

    documents: int = Field(1000, ge=1, le=100_000)
    """How many documents are looked at. They are spread over the files, and the same every time."""
    examples: int = Field(3, ge=0, le=100)
    """How many documents that a rule would drop are shown, from the nearest to its bound to the farthest."""


class InspectConfig(SampleConfig):
    """How large a sample is, and the settings that are tried on it."""

    clean: CleanConfig = CleanConfig()
    """The settings of `clean` that are tried."""


@dataclass(frozen=True)
class InspectInputs:
    """What `inspect` reads."""

    corpus: tuple[Path, ...]
    """File indexes of what there is to read (see `FileIndex`)."""
    # Elsewhere these are called evaluation sets; here the name is part of the keys of stored results, and stays.
    evaluations: tuple[Path, ...] = ()
    """Evaluation sets, of which no document may hold a passage."""


@stage(
    version=3,
    pages=(Page("inspection.md", "inspection", "What cleaning would drop of a sample, and why"),),
)
def inspect(config: InspectConfig, inputs: InspectInputs, out: Path, report: Report) -> Summary:
    """Write `inspection.json` (see `Inspection`), and a page and a picture of it.

    Raises UserError if nothing can be read.
    """
    file_indexes = [FileIndex.load(path) for path in inputs.corpus]
    files = [file for file_index in file_indexes for file in file_index.files]
    config = config.model_copy(update={"clean": config.clean.of_corpus(files)})
    work = out / ".work"
    log = ReadLog(
        skipped_by_reason=Counter(one.reason for file_index in file_indexes for one in file_index.skipped)
    )
    checked = _check_sample(config, inputs, files, work, log, report)
    _check_across([one for one in checked if not one.faults], config.clean, work)
    shutil.rmtree(work, ignore_errors=True)
    measured = _measure(checked, config.clean)
    found = _found(checked, measured, config, log, len(files))
    (out / INSPECTION).write_text(found.model_dump_json(indent=1))
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inspection.md").write_text(page(found), errors="replace")
    draw_measured(folder / "measured.png", found, measured)
    summary = _summary(found)
    report.metrics(summary)
    return summary


def _check_sample(
    config: InspectConfig,
    inputs: InspectInputs,
    files: Sequence[SourceFile],
    work: Path,
    log: ReadLog,
    report: Report,
) -> list[CheckedDocument]:
    """Put documents of the corpus through every rule that needs no other document."""

    def watch(number: int) -> None:
        report.progress(number, 2 * config.documents, "documents read and looked at")

    sample = take_sample(files, config.documents, config.clean.read, log, watch)
    if not sample:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in log.skipped_by_reason.most_common(3))
        raise UserError(
            f"no document could be read from the {len(files)} files of the corpus ({reasons or 'they hold none'}): "
            "check the files"
        )
    index = index_evaluation_sets(inputs.evaluations, config.clean.decontaminate, work / "evaluation_sets")
    rules = DocumentRules(config.clean, index)
    checked = []
    for number, document in enumerate(sample, 1):
        checked.append(rules.every_fault(document))
        report.progress(len(sample) + number, 2 * len(sample), "documents read and looked at")
    return checked


def _check_across(checked: Sequence[CheckedDocument], config: CleanConfig, work: Path) -> None:
    """Add a fault to those that repeat an earlier one, or part of a held-out one, by the second pass of `clean`."""
    if not checked:
        return
    with Columns(work / "first" / "00000", config) as columns:
        for one in checked:
            columns.append(one.document.id, one.text)
    segments = Segments((), (work / "first" / "00000",), config.duplicates.permutations)
    # A sample is no work for a cluster.
    here = config.model_copy(update={"execution": ExecutionConfig(workers=1)})
    find_duplicates(segments, here, work / "found")
    held_out = index_held_out(segments, config.decontaminate, work / "held_out")
    verdicts = Verdicts(segments, 0, here, work / "found", held_out)
    sources = {one.document.id: one.document.source for one in checked}
    for row, one in enumerate(checked):
        verdict = verdicts.of(row, one.text)
        if verdict.rule:
            detail = f"of {sources[verdict.copy_of]}" if verdict.copy_of else verdict.detail
            repeats = verdict.rule.startswith("duplicates.")
            one.add(verdict.rule, verdict.value, f"{detail}: {one.text}" if repeats else detail)


def _measure(checked: Sequence[CheckedDocument], config: CleanConfig) -> Measured:
    """What the rules that are switched on measure of every text."""
    measured: Measured = defaultdict(QuantileSketch)
    for one in checked:
        if one.language:
            for rule, value in _measures(DocumentStatistics(one.readable, one.language), config):
                measured[rule].add(np.array([value], dtype=np.float64))
    return measured


def _measures(view: DocumentStatistics, config: CleanConfig) -> Iterator[tuple[str, float]]:
    for group, measures in (
        ("quality", quality_measures(view, config.quality.punctuation)),
        ("repetition", repetition_measures(view)),
        ("fineweb", fineweb_measures(view, config.fineweb.short_line)),
    ):
        if getattr(config, group).enabled:
            yield from ((f"{group}.{name}", float(value)) for name, value in measures)


def _found(
    checked: Sequence[CheckedDocument], measured: Measured, config: InspectConfig, log: ReadLog, files: int
) -> Inspection:
    broken: dict[str, list[tuple[Fault, CheckedDocument]]] = {rule: [] for rule in measured}
    for one in checked:
        for fault in one.faults:
            broken.setdefault(fault.rule, []).append((fault, one))
    settings = config.clean.model_dump(mode="json")
    rules = [
        _rule(rule, rule_bound(settings, rule), breaking, measured.get(rule), config.examples)
        for rule, breaking in broken.items()
    ]
    redacted: Counter[str] = Counter()
    for one in checked:
        redacted.update(one.redacted)
    return Inspection(
        sampled=len(checked),
        would_stay=sum(not one.faults for one in checked),
        rules=sorted(rules, key=lambda rule: -rule.documents),
        redacted=dict(redacted.most_common()),
        languages=dict(Counter(one.language for one in checked if one.language).most_common()),
        counted=dict(Counter(name for one in checked for name in one.counted).most_common()),
        skipped=dict(log.skipped_by_reason.most_common()),
        files=files,
    )


def _rule(
    rule: str,
    limit: Any,
    broken: list[tuple[Fault, CheckedDocument]],
    sketch: QuantileSketch | None,
    examples: int,
) -> RuleFound:
    return RuleFound(
        rule=rule,
        bound=limit,
        documents=len(broken),
        first=sum(one.faults[0].rule == rule for _, one in broken),
        only=sum(len(one.faults) == 1 for _, one in broken),
        quantiles=[sketch.quantile(share) for share in (0.05, 0.5, 0.95)] if sketch else [],
        examples=list(_examples(broken, limit, examples)),
    )


def _examples(broken: list[tuple[Fault, CheckedDocument]], limit: Any, most: int) -> Iterator[Example]:
    """Evenly spread from the document nearest to the bound to the one farthest from it."""
    middle = limit if isinstance(limit, int | float) else 0
    ordered = sorted(broken, key=lambda pair: (abs(pair[0].value - middle), pair[1].document.id))
    count = min(most, len(ordered))
    places = {round(number * (len(ordered) - 1) / max(1, count - 1)) for number in range(count)}
    for fault, one in (ordered[place] for place in sorted(places)):
        text = one.details.get(fault.rule, one.text)[:EXCERPT]
        yield Example(source=one.document.source, value=fault.value, text=text)


def _summary(found: Inspection) -> Summary:
    groups: Counter[str] = Counter()
    for one in found.rules:
        groups[one.rule.split(".")[0]] += one.first
    return {
        "documents_sampled": found.sampled,
        "would_stay": found.would_stay,
        "would_go": found.would_go,
        "would_stay_share": round(found.would_stay / found.sampled, 4),
        **{f"would_go_{group}": count for group, count in groups.items() if count},
        "redactions": sum(found.redacted.values()),
        "files_or_lines_skipped": sum(found.skipped.values()),
    }
