"""Figures that a policy may hold a model to, by name: which way is better, bounds, and how much worse another model's is."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary

# What a figure's name ends in, alone or after other words. Some are of suites that not every evaluation has.
_LOWER = (
    *("bits_per_byte", "bits_per_byte_without_bos", "perplexity", "seconds", "bytes", "parameters"),
    *("repetition", "refusal_rate", "refusals", "kl", "joules", "joules_per_token"),
)
_HIGHER = (
    *("tokens_per_second", "accuracy", "acc", "acc_norm", "f1", "exact_match", "bleu", "chrf"),
    *("rouge1", "rouge2", "rougeL", "rougeLsum", "rouge_1", "rouge_2", "rouge_l", "preference"),
    *("distinct_1", "distinct_2", "distinct_3", "end_of_turn_rate", "top_1_agreement"),
)
_ERROR = "_error"
TASKS = "tasks"
"""What the name of a task's figure begins with: `tasks/capitals/acc`."""


class Bound(NamedTuple):
    """A figure, and the least or the most that it may be."""

    name: str
    at_most: bool
    value: float

    def broken_by(self, value: float) -> bool:
        """Whether a figure is out of bounds."""
        return value > self.value if self.at_most else value < self.value

    @property
    def allowed(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.value:g}"


class Margin(NamedTuple):
    """A figure, and how much worse than the champion's it may be, as a share of that."""

    name: str
    share: float

    @property
    def is_of_tasks(self) -> bool:
        return self.name.startswith(f"{TASKS}/")


def lower_is_better(name: str) -> bool | None:
    """Whether less of this figure is better; None if no figure is called so."""
    for part in (name, *name.split("/")):
        for words, answer in ((_LOWER, True), (_HIGHER, False)):
            if re.search(rf"(^|[_.-])({'|'.join(words)})$", part):
                return answer
    return None


def parse_bound(text: str) -> Bound:
    """Read `first_token_seconds <= 0.2`, or `finetune.forgotten_bits_per_byte <= 0.05`. Raises UserError for what is none."""
    found = re.fullmatch(r"\s*(\S+?)\s*(<=|>=)\s*(\S+)\s*", text)
    number = found and _number(found[3])
    if not found or number is None:
        raise UserError(
            f"{text!r} is no bound: write a figure's name, <= or >=, and a number, as first_token_seconds<=0.2"
        )
    if "." not in found[1]:  # of a stage's figure only the stage knows what it is
        _check_known(found[1])
    return Bound(found[1], found[2] == "<=", number)


def parse_margin(text: str) -> Margin:
    """Read `answers_bits_per_byte=0.02`. Raises UserError for what is none."""
    name, equals, value = (part.strip() for part in text.partition("="))
    share = _number(value)
    if not name or not equals or share is None or share < 0:
        raise UserError(
            f"{text!r} is no margin: write a figure's name, =, and the share of the champion's that may be lost, as "
            "answers_bits_per_byte=0.02"
        )
    _check_known(name)
    return Margin(name, share)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _check_known(name: str) -> None:
    if lower_is_better(name) is None:
        raise UserError(
            f"there is no figure {name}: an evaluation's are called, or end in, {', '.join((*_LOWER, *_HIGHER))}; those of "
            "a stage are written as finetune.forgotten_bits_per_byte, and have bounds only"
        )


def figure(summary: Summary, name: str, of: str) -> float:
    """A figure of a model's summary. Raises UserError if it has none of that name, or one that is no number."""
    if name not in summary:
        raise UserError(
            f"the evaluation of {of} has no figure {name}, which registration asks for: measure it, or do not ask for it"
        )
    value = summary[name]
    if isinstance(value, str) or not math.isfinite(value):
        raise UserError(f"{name} of {of} is {value}: nothing can be decided on it")
    return float(value)


@dataclass(frozen=True)
class Loss:
    """How much worse one model's figure is than another's, as a share of the other's; below 0 it is better."""

    name: str
    ours: float
    theirs: float
    low: float
    high: float
    items: int = 0
    """On how many documents, conversations or items both were compared one by one; 0 if on none."""

    def more_items(self, share: float) -> int | None:
        """Return how many more items like these would settle whether it is at most this share worse; None if nobody can say."""
        width, distance = (self.high - self.low) / 2, abs((self.high + self.low) / 2 - share)
        if not self.items or not distance or not math.isfinite(width):
            return None
        return max(1, math.ceil(self.items * ((width / distance) ** 2 - 1)))


def loss(name: str, ours: Summary, theirs: Summary, confidence: float) -> Loss:
    """Compare a figure of two models, with the errors that their evaluations state (`<name>_error`), if they do.

    The errors are taken as independent. They are not where both models were asked the same, and then the interval is wider
    than it need be, never narrower. A figure without an error, as a size, is taken as it is.
    """
    # Of SciPy the quantile alone: its statistics take a second to import.
    from scipy.special import ndtri

    one, other = figure(ours, name, "the challenger"), figure(theirs, name, "the champion")
    difference = one - other if lower_is_better(name) else other - one
    errors = [float(summary.get(name + _ERROR, 0.0)) for summary in (ours, theirs)]
    width = float(ndtri((1 + confidence) / 2)) * math.hypot(*errors)
    return Loss(name, one, other, share_of(difference - width, other), share_of(difference + width, other))


def share_of(difference: float, whole: float) -> float:
    """Return a difference as a share of a figure, which may be nought."""
    if whole == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / abs(whole)


def breach(summary: Mapping[str, float | int | str], bounds: Sequence[Bound]) -> str:
    """What of a model is out of bounds or not known, as the end of a sentence; nothing if all is within."""
    for bound in bounds:
        value = summary.get(bound.name)
        if value is None:
            return f"has no figure {bound.name}, of which {bound.allowed} is allowed"
        if isinstance(value, str) or not math.isfinite(value):
            return f"has a {bound.name} of {value}, on which nothing can be decided"
        if bound.broken_by(value):
            return f"has a {bound.name} of {value:g}, where {bound.allowed} is allowed"
    return ""
