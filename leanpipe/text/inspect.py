"""Stage `inspect`: a dry run of cleaning. A sample goes through every rule, and nothing is dropped."""

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from leanpipe.config import StageConfig
from leanpipe.errors import UserError
from leanpipe.report import Report
from leanpipe.stage import Summary, stage
from leanpipe.text.columns import ColumnWriter
from leanpipe.text.decontaminate import OverlapIndex
from leanpipe.text.document import START, Document, Fault
from leanpipe.text.duplicates import Index, Segment, exact_pairs, near_pairs
from leanpipe.text.extract import main_text
from leanpipe.text.filters import (
    Filters,
    View,
    all_faults,
    fineweb_measures,
    quality_measures,
    repetition_measures,
)
from leanpipe.text.inspection import Example, Inspection, RuleFound, draw_measured, page
from leanpipe.text.language import detect
from leanpipe.text.listing import Listing
from leanpipe.text.normalise import normalise
from leanpipe.text.readlog import ReadLog
from leanpipe.text.redact import redact
from leanpipe.text.rules import bound
from leanpipe.text.sample import take_sample
from leanpipe.text.settings import CleanConfig
from leanpipe.text.shard import COLUMNS, columns_of
from leanpipe.text.sketch import Sketch
from leanpipe.text.split import split_of

INSPECTION = "inspection.json"


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


@dataclass
class Looked:
    """One document of the sample, and everything that is wrong with it."""

    document: Document
    text: str = ""
    """As it would be kept, if it were."""
    language: str = ""
    faults: list[Fault] = field(default_factory=list)
    detail: str = ""
    """What shows its last fault, if that is not its text."""


@stage(version=1)
def inspect(config: InspectConfig, inputs: InspectInputs, out: Path, report: Report) -> Summary:
    """Write `inspection.json` (see `Inspection`), and pages and pictures of it. Raises UserError if nothing can be read."""
    listings = [Listing.load(path) for path in inputs.corpus]
    files = [file for listing in listings for file in listing.files]
    log, tally = ReadLog(skipped_by_reason=_beside(listings)), _Tally(config.clean)
    sample = take_sample(
        files,
        config.documents,
        config.clean.read,
        log,
        lambda number: report.progress(number, config.documents, "documents"),
    )
    if not sample:
        raise UserError(
            f"none of the {len(files)} files of the corpus could be read: {_reasons(log)}; check the files"
        )
    evaluations = _evaluations(config.clean, inputs.evaluations, out)
    looked = [_look(document, config.clean, evaluations, tally) for document in sample]
    _find_duplicates([one for one in looked if not one.faults], config.clean, out / ".work", tally)
    shutil.rmtree(out / ".work", ignore_errors=True)
    found = tally.found(looked, config.examples, log, len(files))
    _write(out, found, tally)
    summary = _summary(found)
    report.metrics(summary)
    return summary


def _look(
    document: Document, config: CleanConfig, evaluations: OverlapIndex | None, tally: "_Tally"
) -> Looked:
    """The document through every rule that needs no other document, as `Judge` does, but to the end."""
    one = Looked(document)
    text = document.text
    if document.html:
        extracted = main_text(text, config.extract)
        if extracted.lost:
            one.faults, one.detail = [Fault("extract.nothing", 0.0)], text[:START]
            return one
        text = extracted.text
    text = normalise(text)
    if not text.strip():
        one.faults = [Fault("empty", 0.0)]
        return one
    one.language = detect(text, config.language_sample)
    if config.languages and one.language not in config.languages:
        one.faults.append(Fault("languages", 0.0))
    tally.measure(text, one.language)
    filters = Filters(config.quality, config.repetition, config.c4, config.fineweb)
    one.faults += all_faults(text, one.language, filters)
    one.text, redacted = redact(text, config.redact)
    tally.redacted.update(redacted)
    overlap = evaluations.overlap(one.text) if evaluations else None
    if overlap:
        one.faults.append(Fault(overlap.rule, overlap.value))
        one.detail = overlap.detail
    return one


class _Tally:
    """What adds up while documents are looked at."""

    def __init__(self, config: CleanConfig):
        self._config = config
        self.measured: dict[str, Sketch] = defaultdict(Sketch)
        """Of all documents, by rule."""
        self.redacted: Counter[str] = Counter()

    def measure(self, text: str, language: str) -> None:
        """Note what the rules that are switched on measure of a text."""
        view, config = View(text, language), self._config
        for group, measures in (
            ("quality", quality_measures(view)),
            ("repetition", repetition_measures(view)),
            ("fineweb", fineweb_measures(view, config.fineweb.short_line)),
        ):
            if getattr(config, group).enabled:
                for name, value in measures:
                    self.note(f"{group}.{name}", value)

    def note(self, rule: str, value: float) -> None:
        self.measured[rule].add(np.array([value], dtype=np.float64))

    def found(self, looked: Sequence[Looked], examples: int, log: ReadLog, files: int) -> Inspection:
        broken: dict[str, list[tuple[Fault, Looked]]] = {rule: [] for rule in self.measured}
        for one in looked:
            for fault in one.faults:
                broken.setdefault(fault.rule, []).append((fault, one))
        found = [self._rule(rule, breaking, examples) for rule, breaking in broken.items()]
        return Inspection(
            sampled=len(looked),
            would_stay=sum(not one.faults for one in looked),
            rules=sorted(found, key=lambda one: -one.documents),
            redacted=dict(self.redacted.most_common()),
            languages=dict(Counter(one.language for one in looked if one.language).most_common()),
            skipped=dict(log.skipped_by_reason.most_common()),
            files=files,
        )

    def _rule(self, rule: str, broken: list[tuple[Fault, Looked]], examples: int) -> RuleFound:
        sketch = self.measured.get(rule)
        limit = bound(self._config.model_dump(mode="json"), rule)
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
        last = fault is one.faults[-1]
        text = one.detail if one.detail and last else one.text
        yield Example(source=one.document.source, value=fault.value, text=text[:START])


def _find_duplicates(looked: Sequence[Looked], config: CleanConfig, folder: Path, tally: _Tally) -> None:
    """Faults for those that repeat an earlier one, found as `clean` finds them."""
    writers = {name: ColumnWriter(folder / name, kind) for name, kind in COLUMNS.items()}
    for one in looked:
        text_hash = hashlib.sha256(one.text.encode(errors="surrogatepass")).digest()
        split = split_of(text_hash, config.split)
        for name, values in columns_of(one.document.id, one.text, text_hash, split, config).items():
            writers[name].append(values)
    for writer in writers.values():
        writer.close()
    if not looked:
        return
    index = Index([Segment(folder, config.duplicates.permutations)], 0)
    gone: np.ndarray = np.zeros(len(index), np.bool_)
    if config.duplicates.exact:
        exact = exact_pairs(index)
        gone[exact.later] = True
        _add(looked, "duplicates.exact", exact)
    if config.duplicates.near:
        _add(looked, "duplicates.near", near_pairs(index, gone, config.duplicates, 0, 1))


def _add(looked: Sequence[Looked], rule: str, pairs: Any) -> None:
    for later, earlier, similarity in zip(*pairs, strict=True):
        one, original = looked[later], looked[earlier]
        one.faults.append(Fault(rule, float(similarity)))
        one.detail = f"of {original.document.source}: {one.text}"


def _evaluations(config: CleanConfig, paths: Sequence[Path], out: Path) -> OverlapIndex | None:
    if not (paths and config.decontaminate.enabled):
        return None
    folder = out / ".work" / "evaluations"
    OverlapIndex.of_files(paths, config.decontaminate).save(folder)
    return OverlapIndex.load(folder)


def _write(out: Path, found: Inspection, tally: _Tally) -> None:
    (out / INSPECTION).write_text(found.model_dump_json(indent=1))
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inspection.md").write_text(page(found), errors="replace")
    draw_measured(folder / "measured.png", found, tally.measured)


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


def _beside(listings: Sequence[Listing]) -> Counter[str]:
    """What was passed over while the corpora were listed, by reason."""
    return Counter(skipped.reason for listing in listings for skipped in listing.skipped)


def _reasons(log: ReadLog) -> str:
    return (
        ", ".join(f"{count} × {reason}" for reason, count in log.skipped_by_reason.most_common(3))
        or "they are empty"
    )
