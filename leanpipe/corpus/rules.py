"""The rules of cleaning that need one document alone, in their order: written once, for cleaning and for its dry run.

Rules about what documents say of each other come after these, and are in `passes/across_documents.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.decontam.decontaminate import OverlapIndex
from leanpipe.corpus.document import EXCERPT, Document, Fault
from leanpipe.corpus.extract.main_text import extract_main_text
from leanpipe.corpus.filters import DocumentStatistics, Filters, filter_faults
from leanpipe.corpus.filters.language import detect_language
from leanpipe.corpus.normalize import normalize
from leanpipe.corpus.pii import redact, redacted_start

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
"""What the names of rules begin with, in the order in which they are applied."""
RESCUED = "pages rescued by another parser"
UNSURE = "pages of which it was hard to tell what is text"


@dataclass(slots=True)
class CheckedDocument:
    """A document, what the rules made of it, and which of them it breaks."""

    document: Document
    readable: str = ""
    """Its text as the rules see it: extracted and normalized."""
    text: str = ""
    """Its text as it would be kept: without the lines that C4 takes out, and without personal data."""
    language: str = ""
    """ISO 639 code, once it has been told."""
    faults: list[Fault] = field(default_factory=list)
    """In the order of the rules: the first is the one for which `clean` drops it."""
    details: dict[str, str] = field(default_factory=dict)
    """What shows a fault, by its rule, where the beginning of the text does not."""
    redacted: dict[str, int] = field(default_factory=dict)
    """How many of each kind of personal data were replaced."""
    counted: tuple[str, ...] = ()
    """What else of the document is counted, of cleaning as of its dry run: `RESCUED`, `UNSURE`."""

    def add(self, rule: str, value: float, detail: str) -> None:
        """Add a fault that another document made one."""
        self.faults.append(Fault(rule, value))
        self.details[rule] = detail


class DocumentRules:
    """The rules that need no other document, with the settings `config`, and with the evaluation sets of an index."""

    def __init__(self, config: CleanConfig, evaluation_index: Path | None = None):
        self._config = config
        self._filters = Filters(config.quality, config.repetition, config.c4, config.fineweb)
        self._evaluation_sets = OverlapIndex.load(evaluation_index) if evaluation_index else None

    def first_fault(self, document: Document) -> CheckedDocument:
        """Check the document up to the first rule that it breaks, as cleaning does; that fault has a detail."""
        checked = CheckedDocument(document)
        if fault := next(self._faults(checked), None):
            checked.faults.append(fault)
            if fault.rule not in checked.details:
                # Personal data are replaced only after all filters; a person is shown the text without them.
                shown = checked.text if checked.language else document.text
                checked.details[fault.rule] = self._excerpt(shown)
        return checked

    def every_fault(self, document: Document) -> CheckedDocument:
        """Check the document against every rule, whatever it broke before, as the dry run does."""
        checked = CheckedDocument(document)
        checked.faults.extend(self._faults(checked))
        return checked

    def _faults(self, checked: CheckedDocument) -> Iterator[Fault]:
        """Yield the rules that the document breaks, in their order, and note in `checked` what is found out on the way.

        Lazy: who takes only the first pays for nothing that comes after it. A text that is not there breaks one rule.
        """
        # The text: extracted from markup, and in one spelling.
        if fault := self._extract(checked):
            checked.details[fault.rule] = self._excerpt(checked.document.text)
            yield fault
            return
        checked.readable = checked.text = normalize(checked.readable)
        if not checked.text.strip():
            yield Fault("empty", 0.0)
            return

        # Its language, by which the filters count words.
        checked.language = detect_language(checked.text, self._config.language_sample)
        if self._config.languages and checked.language not in self._config.languages:
            yield Fault("languages", 0.0)

        # Its quality.
        document = DocumentStatistics(checked.text, checked.language)
        checked.text = yield from filter_faults(document, self._filters)

        # What must not be learnt: personal data are taken out, evaluation sets are kept away from.
        checked.text, checked.redacted = redact(checked.text, self._config.redact)
        if self._evaluation_sets and (overlap := self._evaluation_sets.overlap(checked.text)):
            checked.details[overlap.rule] = overlap.detail
            yield Fault(overlap.rule, overlap.value)

    def _extract(self, checked: CheckedDocument) -> Fault | None:
        """Find what is to be read of the document, or why it cannot be found."""
        checked.readable = checked.document.text
        if not checked.document.html:
            return None
        extracted = extract_main_text(checked.document.text, self._config.extract)
        flags = ((extracted.rescued, RESCUED), (extracted.unsure, UNSURE))
        checked.counted = tuple(name for flag, name in flags if flag)
        checked.readable = extracted.text
        return extracted.fault

    def _excerpt(self, text: str) -> str:
        return redacted_start(text, self._config.redact, EXCERPT)
