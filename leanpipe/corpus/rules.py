"""One document by itself: its text, its language, and the first rule that it breaks. The rules in their order."""

from pathlib import Path
from typing import NamedTuple

from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.decontam.decontaminate import OverlapIndex
from leanpipe.corpus.document import START, Document, Fault
from leanpipe.corpus.extract.main_text import extract_main_text
from leanpipe.corpus.filters import Filters, filter_text
from leanpipe.corpus.filters.language import detect_language
from leanpipe.corpus.normalize import normalize
from leanpipe.corpus.pii import redact, redacted_start


class Judged(NamedTuple):
    """What a document is, once it was looked at."""

    text: str
    """As it would be kept."""
    language: str
    fault: Fault | None
    """Why it is dropped, if it is."""
    detail: str
    """What shows the fault: the beginning of the text, or a passage."""
    redacted: dict[str, int]
    """How many of each kind of personal data were replaced."""


class Judge:
    """Judges documents by `config`, and by the index of evaluation sets at `evaluations` if there is one."""

    def __init__(self, config: CleanConfig, evaluations: Path | None = None):
        self._config = config
        self._filters = Filters(config.quality, config.repetition, config.c4, config.fineweb)
        self._evaluations = OverlapIndex.load(evaluations) if evaluations else None
        self.rescued = 0
        """Pages that the chosen parser lost, and of which another one found the text."""

    def __call__(self, document: Document) -> Judged:
        text, fault = self._text(document)
        if fault:
            return self._dropped(text, "", fault, document.text)
        language = detect_language(text, self._config.language_sample)
        if self._config.languages and language not in self._config.languages:
            return self._dropped(text, language, Fault("languages", 0.0), text)
        text, fault = filter_text(text, language, self._filters)
        if fault:
            return self._dropped(text, language, fault, text)
        text, redacted = redact(text, self._config.redact)
        if self._evaluations and (overlap := self._evaluations.overlap(text)):
            return Judged(text, language, Fault(overlap.rule, overlap.value), overlap.detail, redacted)
        return Judged(text, language, None, "", redacted)

    def _dropped(self, text: str, language: str, fault: Fault, shown: str) -> Judged:
        """What is shown of a document that was dropped before its personal data were replaced is shown without them."""
        return Judged(text, language, fault, redacted_start(shown, self._config.redact, START), {})

    def _text(self, document: Document) -> tuple[str, Fault | None]:
        """What is to be read of it, repaired and normalised."""
        text = document.text
        if document.html:
            extracted = extract_main_text(text, self._config.extract)
            self.rescued += extracted.rescued
            if extracted.fault:
                return "", extracted.fault
            text = extracted.text
        text = normalize(text)
        return text, None if text.strip() else Fault("empty", 0.0)
