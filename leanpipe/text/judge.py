"""One document by itself: its text, its language, and the first rule that it breaks. The rules in their order."""

from pathlib import Path
from typing import NamedTuple

from leanpipe.text.decontaminate import OverlapIndex
from leanpipe.text.document import Document, Fault
from leanpipe.text.extract import main_text
from leanpipe.text.filters import Filters, filter_text
from leanpipe.text.language import detect
from leanpipe.text.normalise import normalise
from leanpipe.text.redact import redact
from leanpipe.text.settings import CleanConfig


class Judged(NamedTuple):
    """What a document is, once it was looked at."""

    text: str
    """As it would be kept."""
    language: str
    fault: Fault | None
    """Why it is dropped, if it is."""
    detail: str
    """What shows the fault, if it is not the text's beginning."""
    redacted: dict[str, int]
    """How many of each kind of personal data were replaced."""


class Judge:
    """Judges documents by `config`, and by the index of evaluation sets at `evaluations` if there is one."""

    def __init__(self, config: CleanConfig, evaluations: Path | None = None):
        self._config = config
        self._filters = Filters(config.quality, config.repetition, config.c4, config.fineweb)
        self._evaluations = OverlapIndex.load(evaluations) if evaluations else None

    def __call__(self, document: Document) -> Judged:
        text, fault = self._text(document)
        if fault:
            return Judged(text, "", fault, document.text if fault.rule == "extract.nothing" else "", {})
        language = detect(text, self._config.language_sample)
        if self._config.languages and language not in self._config.languages:
            return Judged(text, language, Fault("languages", 0.0), "", {})
        text, fault = filter_text(text, language, self._filters)
        if fault:
            return Judged(text, language, fault, "", {})
        text, redacted = redact(text, self._config.redact)
        overlap = self._evaluations.overlap(text) if self._evaluations else None
        fault = Fault(overlap.rule, overlap.value) if overlap else None
        return Judged(text, language, fault, overlap.detail if overlap else "", redacted)

    def _text(self, document: Document) -> tuple[str, Fault | None]:
        """What is to be read of it, repaired and normalised."""
        text = document.text
        if document.html:
            extracted = main_text(text, self._config.extract)
            if extracted.lost:
                return "", Fault("extract.nothing", 0.0)
            text = extracted.text
        text = normalise(text)
        return text, None if text.strip() else Fault("empty", 0.0)
