"""C4's heuristics: Raffel et al. 2020, "Exploring the Limits of Transfer Learning", JMLR 21(140), section 2.2.

They look at lines: those that break a rule are taken out, and what is left must be enough. Rules on lines are tried in
the order of the fields. As in C4's own code, a page is dropped for "lorem ipsum" or a curly bracket only where they
stand in a line that was not taken out before. Its list of bad words is not part of any package, and left out.
"""

import re

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.corpus.document import Fault
from leanpipe.corpus.filters.document_statistics import DocumentStatistics
from leanpipe.corpus.filters.word_split import TERMINALS, count_sentences

_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_ENDS = TERMINALS | set("\"'”’」』")
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_UNMARKED = frozenset({"th", "lo"})  # languages that end no sentence with a mark
_SENTENCE_ENDS = re.compile(f"[{re.escape(''.join(sorted(TERMINALS)))}]+")


class C4Config(StageConfig):
    """C4's rules (Raffel et al. 2020, section 2.2). Off by default: they take out headings, lists and code, and with
    them much of a manual; a page of C4 itself they leave as it is."""

    enabled: bool = False
    """Whether lines and documents are judged by these rules at all. If so, empty lines go too, as in C4."""
    max_word_length: int = Field(1000, ge=1, le=1_000_000)
    """Lines with a longer word, in characters, are taken out (from C4's code: 1000)."""
    min_words_per_line: int = Field(3, ge=0, le=1000)
    """Lines with fewer words are taken out (Raffel et al. 2020, section 2.2: 3)."""
    citations: bool = True
    """Whether marks such as [1], [edit] and [citation needed] are taken out of lines (Raffel et al. 2020, section
    2.2)."""
    terminal_punctuation: bool = True
    """Whether lines that end without a full stop, question mark, exclamation mark or quotation mark are taken out
    (Raffel et al. 2020, section 2.2). FineWeb leaves them in, for it costs 30% of the text (Penedo et al. 2024, section
    3.5). Not asked of Thai and Lao."""
    lorem_ipsum: bool = True
    """Whether documents with the placeholder "lorem ipsum" are dropped (Raffel et al. 2020, section 2.2)."""
    javascript: bool = True
    """Whether lines with the word "javascript" are taken out, as most ask to switch it on (Raffel et al. 2020, section
    2.2)."""
    curly_brackets: bool = True
    """Whether documents with a { are dropped, as most of them hold code (Raffel et al. 2020, section 2.2)."""
    policies: bool = True
    """Whether lines about cookies, privacy policies and terms of use are taken out (Raffel et al. 2020, section
    2.2)."""
    min_sentences: int = Field(5, ge=0, le=10_000)
    """Documents with fewer sentences left are dropped (Raffel et al. 2020, section 2.2: 5). Not asked of Thai and
    Lao."""


def c4_clean(document: DocumentStatistics, config: C4Config) -> tuple[str, list[Fault]]:
    """Return the text that C4 leaves of the document, and every reason to drop it; the text of such a one is left alone."""
    if not config.enabled:
        return document.text, []
    lines, faults = _judge_lines(document, config)
    return (document.text, faults) if faults else ("\n".join(lines), [])


def _judge_lines(document: DocumentStatistics, config: C4Config) -> tuple[list[str], list[Fault]]:
    """(the lines that are left, all reasons to drop the document)."""
    lines, faults = _well_formed(document, config), []
    lowered = "\n".join(lines).lower()
    if config.lorem_ipsum and (count := lowered.count("lorem ipsum")):
        faults.append(Fault("c4.lorem_ipsum", float(count)))
    if config.javascript:
        lines = _without(lines, lowered, ("javascript",))
    if config.curly_brackets and (count := sum(line.count("{") for line in lines) if "{" in lowered else 0):
        faults.append(Fault("c4.curly_brackets", float(count)))
    if config.policies:
        lines = _without(lines, lowered, _POLICIES)
    sentences = _sentences(lines, document, config.min_sentences)
    if sentences < config.min_sentences and document.language not in _UNMARKED:
        faults.append(Fault("c4.min_sentences", float(sentences)))
    return lines, faults


def _well_formed(document: DocumentStatistics, config: C4Config) -> list[str]:
    """The lines that end as sentences do and are long enough, without citations."""
    lines = list(map(str.strip, document.lines))
    if config.citations and "[" in document.text:
        lines = [_CITATION.sub("", line) for line in lines]
    if config.terminal_punctuation and document.language not in _UNMARKED:
        lines = [line for line in lines if line[-1:] in _ENDS and not line.endswith("...")]
    least, longest = config.min_words_per_line, config.max_word_length
    if document.spaceless:
        return [line for line in lines if sum(map(str.isalnum, line)) >= least]
    lines = [line for line in lines if len(line.split(None, least)) >= least]
    return [line for line in lines if len(line) <= longest or max(map(len, line.split())) <= longest]


def _without(lines: list[str], lowered: str, phrases: tuple[str, ...]) -> list[str]:
    """The lines with none of `phrases`, which `lowered` holds if any line does."""
    found = [phrase for phrase in phrases if phrase in lowered]
    if not found:
        return lines
    return [line for line in lines if not any(phrase in line.lower() for phrase in found)]


def _sentences(lines: list[str], document: DocumentStatistics, enough: int) -> int:
    """How many sentences there are, counted up to `enough`. Every line holds one at least."""
    count = len(lines)
    for line in lines:
        if count >= enough:
            break
        if document.spaceless:
            count += max(0, sum(map(bool, map(str.strip, _SENTENCE_ENDS.split(line)))) - 1)
        else:
            count += count_sentences(line, enough - count + 1) - 1
    return count
