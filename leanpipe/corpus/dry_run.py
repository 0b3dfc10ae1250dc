"""Stage `inspect`: a dry run of cleaning. A sample goes through every rule, and nothing is dropped."""

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
from leanpipe.corpus.decontam.decontaminate import OverlapIndex
from leanpipe.corpus.document import START, Fault
from leanpipe.corpus.every_fault import Looked, compare, look
from leanpipe.corpus.filters import View, fineweb_measures, quality_measures, repetition_measures
from leanpipe.corpus.report.dry_run_report import (
    INSPECTION,
    Example,
    Inspection,
    RuleFound,
    draw_measured,
    page,
)
from leanpipe.corpus.report.quantile_sketch import Sketch
from leanpipe.corpus.rule_names import bound
from leanpipe.corpus.sources.file_index import Listing
from leanpipe.corpus.sources.read_log import ReadLog
from leanpipe.corpus.sources.sample import take_sample

Measured = dict[str, Sketch]
"""What was measured of all documents, by rule."""


class SampleConfig(StageConfig):
    """How much of the corpus is looked at, and how much of it is shown."""

    documents: int = Field(1000, ge=1, le=100_000)
    """How many documents are looked at. They are spread over the files, and the same every time."""
    examples: int = Field(3, ge=0, le=100)
    """How many documents that a rule would drop are shown, from the nearest to its bound to the farthest."""


class InspectConfig(SampleConfig):
    """The sample, and the settings that are tried on it."""

    clean: CleanConfig = CleanConfig()
    """The settings of `clean` that are tried."""


@dataclass(frozen=True)
class InspectInputs:
    corpus: tuple[Path, ...]
    """Listings of what there is to read (see `leanpipe.text.listing`)."""
    evaluations: tuple[Path, ...] = ()
    """Evaluation sets, of which no document may hold a passage."""


@stage(
    version=1,
    pages=(Page("inspection.md", "inspection", "What cleaning would drop of a sample, and why"),),
)
def inspect(config: InspectConfig, inputs: InspectInputs, out: Path, report: Report) -> Summary:
    """Write `inspection.json` (see `Inspection`), and a page and a picture of it.

    Raises UserError if nothing can be read.
    """
    listings = [Listing.load(path) for path in inputs.corpus]
    work = out / ".work"
    log = ReadLog(skipped_by_reason=Counter(one.reason for listing in listings for one in listing.skipped))
    looked = _look_at_sample(config, inputs, listings, work, log, report)
    compare([one for one in looked if not one.faults], config.clean, work / "columns")
    shutil.rmtree(work, ignore_errors=True)
    measured = _measure(looked, config.clean)
    found = _found(looked, measured, config, log, sum(len(listing.files) for listing in listings))
    (out / INSPECTION).write_text(found.model_dump_json(indent=1))
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inspection.md").write_text(page(found), errors="replace")
    draw_measured(folder / "measured.png", found, measured)
    summary = _summary(found)
    report.metrics(summary)
    return summary


def _look_at_sample(
    config: InspectConfig,
    inputs: InspectInputs,
    listings: Sequence[Listing],
    work: Path,
    log: ReadLog,
    report: Report,
) -> list[Looked]:
    def watch(number: int) -> None:
        report.progress(number, 2 * config.documents, "documents read and looked at")

    files = [file for listing in listings for file in listing.files]
    sample = take_sample(files, config.documents, config.clean.read, log, watch)
    if not sample:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in log.skipped_by_reason.most_common(3))
        raise UserError(
            f"no document could be read from the {len(files)} files of the corpus ({reasons or 'they hold none'}): "
            "check the files"
        )
    evaluations = _evaluations(config.clean, inputs.evaluations, work / "evaluations")
    looked = []
    for number, document in enumerate(sample, 1):
        looked.append(look(document, config.clean, evaluations))
        report.progress(len(sample) + number, 2 * len(sample), "documents read and looked at")
    return looked


def _evaluations(config: CleanConfig, paths: Sequence[Path], folder: Path) -> OverlapIndex | None:
    if not (paths and config.decontaminate.enabled):
        return None
    OverlapIndex.of_files(paths, config.decontaminate).save(folder)
    return OverlapIndex.load(folder)


def _measure(looked: Sequence[Looked], config: CleanConfig) -> Measured:
    """What the rules that are switched on measure of every text."""
    measured: Measured = defaultdict(Sketch)
    for one in looked:
        if one.language:
            for rule, value in _measures(View(one.readable, one.language), config):
                measured[rule].add(np.array([value], dtype=np.float64))
    return measured


def _measures(view: View, config: CleanConfig) -> Iterator[tuple[str, float]]:
    for group, measures in (
        ("quality", quality_measures(view, config.quality.punctuation)),
        ("repetition", repetition_measures(view)),
        ("fineweb", fineweb_measures(view, config.fineweb.short_line)),
    ):
        if getattr(config, group).enabled:
            yield from ((f"{group}.{name}", float(value)) for name, value in measures)


def _found(
    looked: Sequence[Looked], measured: Measured, config: InspectConfig, log: ReadLog, files: int
) -> Inspection:
    broken: dict[str, list[tuple[Fault, Looked]]] = {rule: [] for rule in measured}
    for one in looked:
        for fault in one.faults:
            broken.setdefault(fault.rule, []).append((fault, one))
    settings = config.clean.model_dump(mode="json")
    rules = [
        _rule(rule, bound(settings, rule), breaking, measured.get(rule), config.examples)
        for rule, breaking in broken.items()
    ]
    redacted: Counter[str] = Counter()
    for one in looked:
        redacted.update(one.redacted)
    return Inspection(
        sampled=len(looked),
        would_stay=sum(not one.faults for one in looked),
        rules=sorted(rules, key=lambda rule: -rule.documents),
        redacted=dict(redacted.most_common()),
        languages=dict(Counter(one.language for one in looked if one.language).most_common()),
        skipped=dict(log.skipped_by_reason.most_common()),
        files=files,
    )


def _rule(
    rule: str, limit: Any, broken: list[tuple[Fault, Looked]], sketch: Sketch | None, examples: int
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


def _examples(broken: list[tuple[Fault, Looked]], limit: Any, most: int) -> Iterator[Example]:
    """Evenly spread from the document nearest to the bound to the one farthest from it."""
    middle = limit if isinstance(limit, int | float) else 0
    ordered = sorted(broken, key=lambda pair: (abs(pair[0].value - middle), pair[1].document.id))
    count = min(most, len(ordered))
    places = {round(number * (len(ordered) - 1) / max(1, count - 1)) for number in range(count)}
    for fault, one in (ordered[place] for place in sorted(places)):
        text = one.details.get(fault.rule, one.text)[:START]
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
