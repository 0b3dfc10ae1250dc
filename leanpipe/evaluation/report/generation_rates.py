"""How a model writes, counted over its answers: whether it repeats itself, ends by itself, and refuses."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from leanpipe.core import markdown
from leanpipe.evaluation.generate import Generation

_REPEATED = 4
"""Words of a phrase that counts as repeated if it stood before in the same answer."""
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:no|')t|cannot|won't|will not) (?:help|assist|answer|provide|do)|as an ai)\b",
    re.IGNORECASE,
)


class GenerationRates(NamedTuple):
    """What was counted over several answers of one model."""

    answers: int
    words: float
    """Of an answer, on average."""
    repetition: float
    """Share of the phrases of four words that stood before in the same answer."""
    distinct_1: float
    """Different words as a share of all words of all answers (Li et al. 2016, https://arxiv.org/abs/1510.03055)."""
    distinct_2: float
    ended: float
    """Share of the answers that ended by themselves, rather than at the limit."""
    refused: float
    """Share of the answers that say in English that they will not answer."""


def generation_rates(generations: Sequence[Generation]) -> GenerationRates:
    """Count over at least one answer. Words are what white space separates, in lower case."""
    words = [one.text.lower().split() for one in generations]
    phrases = [_phrases(some, _REPEATED) for some in words]
    repeated = sum(sum(count - 1 for count in Counter(some).values()) for some in phrases)
    count = len(generations)
    return GenerationRates(
        answers=count,
        words=sum(map(len, words)) / count,
        repetition=repeated / max(1, sum(map(len, phrases))),
        distinct_1=_distinct(words, 1),
        distinct_2=_distinct(words, 2),
        ended=sum(one.stopped for one in generations) / count,
        refused=sum(bool(_REFUSAL.search(one.text)) for one in generations) / count,
    )


def rates_markdown(generations: Mapping[str, Sequence[Generation]]) -> str:
    """A row for each model that answered anything."""
    rows = []
    for label, some in generations.items():
        if some:
            rates = generation_rates(some)
            shares = (f"{share:.0%}" for share in rates[2:])
            rows.append((label, f"{rates.answers}", f"{rates.words:.1f}", *shares))
    header = ("model", "answers", "words", "repeated", "distinct words", "distinct pairs", "ended", "refused")
    return markdown.table(header, rows, "lrrrrrrr") if rows else ""


def _distinct(answers: Sequence[Sequence[str]], length: int) -> float:
    phrases = [phrase for words in answers for phrase in _phrases(words, length)]
    return len(set(phrases)) / max(1, len(phrases))


def _phrases(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
