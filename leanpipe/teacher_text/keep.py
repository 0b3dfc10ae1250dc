"""Which of a teacher's texts are worth learning from: whole ones, not too short, that do not repeat themselves or another."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.document import Document
from leanpipe.corpus.filters import DocumentStatistics, repetition_faults
from leanpipe.corpus.rules import DocumentRules
from leanpipe.teacher_text.writers import Written
from leanpipe.tokens.text_tokens import encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS = re.compile(r"\w+")
_FEW_WORDS = 50
"""Shares of repeated words say nothing about texts of fewer."""


@dataclass
class Keeper:
    """Decides text by text, in their order, and remembers what it kept: a repetition is dropped, the first one is not."""

    rules: CleanConfig
    tokenizer: "PreTrainedTokenizerBase"
    min_tokens: int
    dropped: dict[str, int] = field(default_factory=dict)
    """How many texts were dropped, by reason."""

    def __post_init__(self) -> None:
        self._documents = DocumentRules(self.rules)
        self._seen: set[str] = set()

    def keep(self, written: Written) -> str | None:
        """Return the text to learn from, of which personal data are replaced; None if it is dropped."""
        reason, text = self._judge(written)
        if reason:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
            return None
        return text

    def _judge(self, written: Written) -> tuple[str, str]:
        """The reason why a text is dropped, which is empty if it is not, and what cleaning leaves of it."""
        answers = written.prompt.conversation is not None
        if answers and not written.ended:
            return "unfinished", ""  # whoever learns it learns to stop in the middle
        if not written.text.strip():
            return "empty", ""
        if not answers and len(encode_text(self.tokenizer, written.text)) < self.min_tokens:
            return "short", ""
        words = " ".join(_WORDS.findall(written.text.lower()))
        if words in self._seen:
            return "repeats another", ""
        reason, text = self._clean(written, answers)
        if not reason:
            self._seen.add(words)
        return reason, text

    def _clean(self, written: Written, answers: bool) -> tuple[str, str]:
        if answers and len(_WORDS.findall(written.text)) < _FEW_WORDS:
            return "", written.text.strip()  # a good answer may be one word
        if answers:
            fault = next(
                repetition_faults(DocumentStatistics(written.text, "en"), self.rules.repetition), None
            )
            return (fault.rule if fault else ""), written.text.strip()
        document = Document(written.prompt.id, written.prompt.text + written.text, "written")
        checked = self._documents.first_fault(document)
        return (checked.faults[0].rule if checked.faults else ""), checked.text

    def describe(self) -> str:
        """Return how many texts were dropped for which reason, such as "unfinished (12), short (3)"."""
        ordered = sorted(self.dropped.items(), key=lambda reason: -reason[1])
        return ", ".join(f"{reason} ({number:,})" for reason, number in ordered) or "none"
