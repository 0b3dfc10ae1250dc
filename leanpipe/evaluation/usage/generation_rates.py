"""How a model writes, counted over its answers: whether it repeats itself, ends by itself, and refuses.

Prompts are the units: an interval says what other prompts like these would show. That of a share of answers is Wilson's
(Wilson 1927, "Probable inference"; Brown, Cai and DasGupta 2001), that of all else the delete-one jackknife's with Student's
t quantiles (Efron and Stein 1981).
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from leanpipe.core import markdown
from leanpipe.core.stage import Summary
from leanpipe.evaluation.generate import Generation

CONFIDENCE = 0.95
REFUSALS = (
    r"i(?:'m| am) (?:sorry|unable|not able)",
    r"i (?:can(?:no|')t|cannot|won't|will not) (?:help|assist|answer|provide|do)",
    r"as an ai\b",
)
"""Openings, in English and as regular expressions, of sentences by which a model says that it will not answer."""
_REFUSAL = re.compile(rf"\b(?:{'|'.join(REFUSALS)})", re.IGNORECASE)
_REPEATED = 4
"""Words of a phrase that counts as repeated if it stood before in the same answer."""


class Rate(NamedTuple):
    """A figure with its interval; the interval is not known of a single answer, but for shares of answers."""

    value: float
    low: float
    high: float


def _repetition(generations: Sequence[Generation]) -> float:
    phrases = [_phrases(_words(one), _REPEATED) for one in generations]
    repeated = sum(sum(count - 1 for count in Counter(some).values()) for some in phrases)
    return repeated / max(1, sum(map(len, phrases)))


def _distinct(length: int) -> Callable[[Sequence[Generation]], float]:
    def figure(generations: Sequence[Generation]) -> float:
        phrases = [phrase for one in generations for phrase in _phrases(_words(one), length)]
        return len(set(phrases)) / max(1, len(phrases))

    return figure


def _length(generations: Sequence[Generation]) -> float:
    return sum(one.tokens for one in generations) / len(generations)


_FIGURES: dict[str, Callable[[Sequence[Generation]], float]] = {
    "repetition": _repetition,
    "distinct_1": _distinct(1),
    "distinct_2": _distinct(2),
    "distinct_3": _distinct(3),
    "answer_tokens": _length,
}
_SHARES: dict[str, Callable[[Generation], bool]] = {
    "end_of_turn_rate": lambda one: one.stopped,
    "refusal_rate": lambda one: bool(_REFUSAL.search(one.text)),
}
_COLUMNS = {
    "repetition": "repeated",
    "distinct_1": "distinct words",
    "distinct_2": "distinct pairs",
    "distinct_3": "distinct triples",
    "answer_tokens": "tokens",
    "end_of_turn_rate": "ended",
    "refusal_rate": "refused",
}
"""What the figures are called in a table."""


def generation_rates(generations: Sequence[Generation]) -> dict[str, Rate]:
    """Count over at least one answer, by figure. Words are what white space separates, in lower case.

    `repetition` is the share of the phrases of four words that stood before in the same answer; `distinct_n` how many
    different phrases of n words there are, as a share of all of all answers (Li et al. 2016,
    https://arxiv.org/abs/1510.03055); `answer_tokens` the mean length; `end_of_turn_rate` the share of answers that ended by
    themselves, rather than at the limit; `refusal_rate` the share of those that say in English that they will not answer.
    """
    rates = {
        name: _jackknifed(figure, generations, most=math.inf if name == "answer_tokens" else 1.0)
        for name, figure in _FIGURES.items()
    }
    count = len(generations)
    return rates | {name: _share(sum(map(is_so, generations)), count) for name, is_so in _SHARES.items()}


def rate_figures(generations: Sequence[Generation]) -> Summary:
    """The figures without their intervals, each with the way of sampling before its name: `greedy_repetition`."""
    return {
        f"{name}_{figure}": rate.value
        for name, some in by_sampling(generations).items()
        for figure, rate in generation_rates(some).items()
    }


def by_sampling(generations: Sequence[Generation]) -> dict[str, list[Generation]]:
    """The answers by the name of the way in which their tokens were chosen."""
    found: dict[str, list[Generation]] = {}
    for one in generations:
        found.setdefault(one.sampling, []).append(one)
    return found


def rates_markdown(generations: Mapping[str, Sequence[Generation]]) -> str:
    """A row for each model that answered anything and each way of sampling, with the figures' intervals."""
    rows = []
    for label, answers in generations.items():
        for sampling, some in by_sampling(answers).items():
            rates = generation_rates(some)
            rows.append((label, sampling, f"{len(some)}", *(_told(name, rates[name]) for name in _COLUMNS)))
    header = ("model", "sampling", "answers", *_COLUMNS.values())
    return markdown.table(header, rows, "llr" + "r" * len(_COLUMNS)) if rows else ""


def _told(name: str, rate: Rate) -> str:
    written = "{:.1f}" if name == "answer_tokens" else "{:.0%}"
    value, low, high = (written.format(one) for one in rate)
    return value if math.isnan(rate.low) else f"{value} ({low} to {high})"


def _jackknifed(
    figure: Callable[[Sequence[Generation]], float], some: Sequence[Generation], most: float
) -> Rate:
    value, count = figure(some), len(some)
    if count < 2:
        return Rate(value, math.nan, math.nan)
    from scipy.special import stdtrit

    without = [figure([*some[:place], *some[place + 1 :]]) for place in range(count)]
    middle = sum(without) / count
    error = math.sqrt((count - 1) / count * sum((one - middle) ** 2 for one in without))
    width = error * float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Rate(value, max(0.0, value - width), min(most, value + width))


def _share(times: int, count: int) -> Rate:
    from scipy.special import ndtri

    share, z = times / count, float(ndtri((1 + CONFIDENCE) / 2))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    width = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return Rate(share, max(0.0, middle - width), min(1.0, middle + width))


def _words(generation: Generation) -> list[str]:
    return generation.text.lower().split()


def _phrases(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
