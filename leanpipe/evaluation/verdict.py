"""Whether a challenger becomes the champion: never because of chance, and never worse step by step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from leanpipe.core.stage import Summary
from leanpipe.evaluation.decide.error_budget import level_of
from leanpipe.evaluation.decide.figures import Margin
from leanpipe.evaluation.decide.paired_losses import loss_of
from leanpipe.evaluation.decide.units import EACH_DOCUMENT, Units
from leanpipe.evaluation.gate import RegisterConfig, check_figures
from leanpipe.evaluation.paired import Difference, Evaluated, common_documents, count_units, paired_difference


class Outcome(StrEnum):
    """What becomes of a challenger."""

    PROMOTE = "promote"
    KEEP = "keep"
    """The champion stays."""
    INCONCLUSIVE = "inconclusive"
    """The champion stays, for what was seen cannot tell."""
    BROKEN = "broken"
    """Nothing changes, for there is something that a person has to mend first."""


@dataclass(frozen=True)
class ScoredDocument:
    """A document, and the bits that each model needs for it."""

    id: str
    bytes: int
    challenger: float
    champion: float
    best: float | None
    """None if the champion is the best so far."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of the challenger, and why."""

    outcome: Outcome
    reason: str
    best: bool = False
    """Whether the challenger is the best champion so far, by which later ones are measured."""
    against_champion: Difference | None = None
    against_best: Difference | None = None
    scores: tuple[ScoredDocument, ...] = ()
    """What it was decided on."""
    more_documents: int | None = None
    """How many more documents would settle what is inconclusive; None if nothing is, or no number would."""

    @property
    def promote(self) -> bool:
        return self.outcome is Outcome.PROMOTE


@dataclass(frozen=True)
class LeftOut:
    """Documents of the held-out text that nothing may be decided on, and what is not known about others."""

    documents: frozenset[str] = frozenset()
    """Ids of those that one of the models learned from."""
    remarks: tuple[str, ...] = ()
    """What a reader of the verdict must know, in sentences."""


@dataclass(frozen=True)
class _Answer:
    """The answer to one question: whether a difference is certainly below a bound."""

    yes: bool
    certain: bool
    text: str
    more_documents: int | None = None
    """How many more would settle it, if it is not certain; None if nobody can say."""


def first_champion(challenger: Summary) -> Verdict:
    """Promote the first model of its name."""
    check_figures({"challenger": challenger})
    return Verdict(
        Outcome.PROMOTE, f"There is no champion yet: the first has {_figures(challenger)}.", best=True
    )


@dataclass(frozen=True)
class Look:
    """How a challenger is looked at: how sure a promotion must be, and what the units are."""

    level: float
    """Chance of a promotion by mistake that this look may take."""
    units: Units = EACH_DOCUMENT

    @classmethod
    def first(cls, policy: RegisterConfig) -> "Look":
        """The first look of a year, document by document."""
        return cls(level_of((), "", policy.error_budget, datetime.now(UTC)))


def judge(
    challenger: Evaluated,
    champion: Evaluated,
    policy: RegisterConfig,
    best: Evaluated | None = None,
    best_lost: str = "",
    left_out: LeftOut = LeftOut(),
    look: Look | None = None,
) -> Verdict:
    """Decide whether `challenger` takes the place of `champion`, by their scores on the same documents.

    It does if it is certainly better, or if it is smaller and certainly not worse by the policy's margin; and if no other
    figure that has a margin is worse by more. `best` is the best champion so far, if that is another: many steps, each of
    them within the margin, would lead anywhere. `best_lost` says why it cannot be measured: then only a better one takes the
    place. `look` says how certain, by default as certain as the first look of a year. Raises UserError if a figure is not
    finite.
    """
    look = look or Look.first(policy)
    models = [challenger, champion, *([best] if best else [])]
    if len({model.summary["held_out_digest"] for model in models}) > 1:
        reason = "The champion was evaluated on other text: evaluate it on this one, then compare."
        return Verdict(Outcome.INCONCLUSIVE, reason)
    named = dict(zip(("challenger", "champion", "best champion"), models, strict=False))
    check_figures({label: model.summary for label, model in named.items()})
    if challenger.summary["weights_digest"] == champion.summary["weights_digest"]:
        reason = f"This is the champion itself, with {_figures(champion.summary)}."
        return Verdict(Outcome.KEEP, reason)
    documents = common_documents(*models, without=left_out.documents)
    remarks = " ".join(("", *_about(left_out, challenger), *left_out.remarks))
    units = count_units(documents, look.units.groups)
    scores = tuple(_scored(id, challenger, champion, best) for id in documents)
    if units < policy.min_documents:
        reason = _too_few(units, look.units.name, policy) + remarks
        missing = (policy.min_documents - units) * max(1, len(documents)) / max(1, units)
        return Verdict(Outcome.INCONCLUSIVE, reason, scores=scores, more_documents=math.ceil(missing))
    how = (policy.confidence, look.units.groups, look.level)
    against = paired_difference(challenger, champion, documents, *how)
    against_best = paired_difference(challenger, best, documents, *how) if best else None
    better = _below(against, -policy.min_improvement, f"better by more than {policy.min_improvement:.2%}")
    saving = 1 - challenger.summary["size_bytes"] / champion.summary["size_bytes"]
    answers = [better, *_as_good_and_smaller(saving, against, against_best, best_lost, policy)]
    held = [
        _within(margin, challenger, champion, policy.confidence, documents)
        for margin in policy.parsed_margins()
    ]
    outcome = _outcome(answers, held)
    texts = "; ".join(one.text for one in (*answers, *held))
    reason = f"{_both(challenger, champion, against, saving, look)}: {texts}."
    if outcome is Outcome.INCONCLUSIVE:
        reason = f"Inconclusive: {reason}"
    # Later ones are measured by it only if it is certainly the better one: luck would let them drift.
    leads = _below(against_best, 0.0, "").yes if against_best else better.yes
    return Verdict(
        outcome,
        reason + remarks,
        outcome is Outcome.PROMOTE and leads,
        against,
        against_best,
        scores,
        _most_wanted(answers, outcome),
    )


def _scored(id: str, challenger: Evaluated, champion: Evaluated, best: Evaluated | None) -> ScoredDocument:
    ours = challenger.scores[id]
    theirs, of_best = champion.scores[id].bits, best.scores[id].bits if best else None
    return ScoredDocument(id, ours.bytes, ours.bits, theirs, of_best)


def _outcome(answers: Sequence[_Answer], held: Sequence[_Answer]) -> Outcome:
    """One of `answers` must be yes, and all that must be `held`."""
    if any(one.certain and not one.yes for one in held):
        return Outcome.KEEP
    if any(answer.yes for answer in answers):
        return Outcome.PROMOTE if all(one.yes for one in held) else Outcome.INCONCLUSIVE
    return Outcome.KEEP if all(answer.certain for answer in answers) else Outcome.INCONCLUSIVE


def _most_wanted(answers: Sequence[_Answer], outcome: Outcome) -> int | None:
    """How many more documents may settle one of the answers; None if no number does, or nothing is open."""
    wanted = [one.more_documents for one in answers if one.more_documents]
    return min(wanted) if wanted and outcome is Outcome.INCONCLUSIVE else None


def _within(
    margin: Margin, challenger: Evaluated, champion: Evaluated, confidence: float, documents: Sequence[str]
) -> _Answer:
    """Answer whether another figure is certainly worse by less than its margin."""
    found = loss_of(margin.name, challenger, champion, confidence, documents)
    paired = f" on the same {found.items:,}" if found.items else ""
    figures = f"its {margin.name} is {found.ours:.4g} against {found.theirs:.4g}{paired}"
    if found.high <= margin.share:
        return _Answer(True, True, f"{figures}, within the {margin.share:.2%} that it may be worse")
    if found.low > margin.share:
        return _Answer(False, True, f"{figures}, more than the {margin.share:.2%} worse that is allowed")
    more = found.more_items(margin.share)
    settled = f" (about {more:,} more like these would settle it)" if more else ""
    asked = f"whether that is at most {margin.share:.2%} worse cannot be told{settled}"
    return _Answer(False, False, f"{figures}, and {asked}")


def _as_good_and_smaller(
    saving: float,
    against: Difference,
    against_best: Difference | None,
    best_lost: str,
    policy: RegisterConfig,
) -> list[_Answer]:
    """Answer whether it is as good, if it is small enough for that to count."""
    if saving <= 0 or saving < policy.min_size_saving:
        return []
    if best_lost:
        return [_Answer(False, True, best_lost)]
    return [_as_good(against, against_best, policy.non_inferiority_margin)]


def _as_good(against: Difference, against_best: Difference | None, margin: float) -> _Answer:
    """Answer for the champion and the best champion so far together: the worse answer of both."""
    asked = f"at most {margin:.2%} worse"
    answers = [_below(against, margin, asked)]
    if against_best:
        change = against_best.share(against_best.estimate)
        than = f"{asked} than the best champion so far (it looks {_change(change)})"
        answers.append(_below(against_best, margin, than))
    return next(
        (one for one in answers if one.certain and not one.yes),
        next((one for one in answers if not one.yes), answers[-1]),
    )


def _below(difference: Difference, share: float, what: str) -> _Answer:
    """Answer whether the difference is certainly below this share of the other model's bits per byte, which is `what`."""
    bound = share * difference.theirs
    if difference.most < bound:
        return _Answer(True, True, f"it is {what}")
    if difference.low > bound:
        return _Answer(False, True, f"it is not {what}")
    more = difference.more_documents(bound)
    how_many = f"about {more:,} more documents like these would" if more else "no number of documents may"
    looks = "it looks so, but " if difference.high < bound else ""
    text = f"whether it is {what} cannot be told ({looks}{how_many} settle it)"
    return _Answer(False, False, text, more)


def _both(challenger: Evaluated, champion: Evaluated, against: Difference, saving: float, look: Look) -> str:
    low, high = against.share(against.low), against.share(against.high)
    units = f" of {against.units} {look.units.name}" if look.units.groups else ""
    return (
        f"{against.ours:.4f} bits/byte at {_size(challenger.summary)} against the champion's {against.theirs:.4f} at "
        f"{_size(champion.summary)} on the same {against.documents} documents{units}, {_change(against.share(against.estimate))} "
        f"(the difference is {low:+.2%} to {high:+.2%} with {100 * against.confidence:g}% confidence, {_at_most(against)}) and "
        f"{abs(saving):.1%} {'smaller' if saving >= 0 else 'larger'}"
    )


def _at_most(against: Difference) -> str:
    if math.isinf(against.most):
        return f"and not known at all as surely as promoting asks for ({against.level:.1e})"
    return (
        f"and below {against.share(against.most):+.2%} as surely as promoting asks for ({against.level:.1e})"
    )


def _about(left_out: LeftOut, challenger: Evaluated) -> list[str]:
    count = len(left_out.documents & challenger.scores.keys())
    if not count:
        return []
    return [f"Left out of the comparison: {count} documents that one of the models learned from."]


def _too_few(units: int, called: str, policy: RegisterConfig) -> str:
    return (
        f"Inconclusive: {units} {called} are too few to decide on, and {policy.min_documents} are asked for "
        "(registration.min_documents): raise evaluate.text_bytes, or hold out more."
    )


def _figures(summary: Summary) -> str:
    bits, error = summary["bits_per_byte"], summary["bits_per_byte_error"]
    return f"{bits:.4f} ± {error:.4f} bits/byte at {_size(summary)}"


def _size(summary: Summary) -> str:
    return f"{summary['size_bytes'] / 1e6:.1f} MB"


def _change(share: float) -> str:
    """Say by how much fewer or more bits per byte."""
    return f"{abs(share):.2%} {'better' if share <= 0 else 'worse'}"
