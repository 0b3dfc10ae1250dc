"""Whether a challenger becomes the champion: never because of chance, and never worse step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from leanpipe.core.stage import Summary
from leanpipe.evaluation.gate import RegisterConfig, check_figures
from leanpipe.evaluation.paired import Difference, Evaluated, common_documents, paired_difference


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


def first_champion(challenger: Summary) -> Verdict:
    """Promote the first model of its name."""
    check_figures({"challenger": challenger})
    return Verdict(
        Outcome.PROMOTE, f"There is no champion yet: the first has {_figures(challenger)}.", best=True
    )


def judge(
    challenger: Evaluated,
    champion: Evaluated,
    policy: RegisterConfig,
    best: Evaluated | None = None,
    best_lost: str = "",
    left_out: LeftOut = LeftOut(),
) -> Verdict:
    """Decide whether `challenger` takes the place of `champion`, by their scores on the same documents.

    It does if it is certainly better, or if it is smaller and certainly not worse by the policy's margin. `best` is the best
    champion so far, if that is another: many steps, each of them within the margin, would lead anywhere. `best_lost` says why
    it cannot be measured: then only a better one takes the place. Raises UserError if a figure is not finite.
    """
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
    if len(documents) < policy.min_documents:
        return Verdict(Outcome.INCONCLUSIVE, _too_few(len(documents), policy) + remarks)
    against = paired_difference(challenger, champion, documents, policy.confidence)
    against_best = paired_difference(challenger, best, documents, policy.confidence) if best else None
    better = _below(against, -policy.min_improvement, f"better by more than {policy.min_improvement:.2%}")
    answers = [better]
    saving = 1 - challenger.summary["size_bytes"] / champion.summary["size_bytes"]
    if saving > 0 and saving >= policy.min_size_saving:
        answers.append(
            _Answer(False, True, best_lost)
            if best_lost
            else _as_good(against, against_best, policy.non_inferiority_margin)
        )
    outcome = _outcome(answers)
    reason = f"{_both(challenger, champion, against, saving)}: {'; '.join(one.text for one in answers)}."
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
        tuple(_scored(id, challenger, champion, best) for id in documents),
    )


def _scored(id: str, challenger: Evaluated, champion: Evaluated, best: Evaluated | None) -> ScoredDocument:
    ours = challenger.scores[id]
    theirs, of_best = champion.scores[id].bits, best.scores[id].bits if best else None
    return ScoredDocument(id, ours.bytes, ours.bits, theirs, of_best)


def _outcome(answers: Sequence[_Answer]) -> Outcome:
    if any(answer.yes for answer in answers):
        return Outcome.PROMOTE
    return Outcome.KEEP if all(answer.certain for answer in answers) else Outcome.INCONCLUSIVE


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
    if difference.high < bound:
        return _Answer(True, True, f"it is {what}")
    if difference.low > bound:
        return _Answer(False, True, f"it is not {what}")
    more = difference.more_documents(bound)
    how_many = f"about {more:,} more documents like these would" if more else "no number of documents may"
    return _Answer(False, False, f"whether it is {what} cannot be told, {how_many} settle it")


def _both(challenger: Evaluated, champion: Evaluated, against: Difference, saving: float) -> str:
    low, high = against.share(against.low), against.share(against.high)
    return (
        f"{against.ours:.4f} bits/byte at {_size(challenger.summary)} against the champion's {against.theirs:.4f} at "
        f"{_size(champion.summary)} on the same {against.documents} documents, {_change(against.share(against.estimate))} "
        f"(the difference is {low:+.2%} to {high:+.2%} with {100 * against.confidence:g}% confidence) and "
        f"{abs(saving):.1%} {'smaller' if saving >= 0 else 'larger'}"
    )


def _about(left_out: LeftOut, challenger: Evaluated) -> list[str]:
    count = len(left_out.documents & challenger.scores.keys())
    if not count:
        return []
    return [f"Left out of the comparison: {count} documents that one of the models learned from."]


def _too_few(documents: int, policy: RegisterConfig) -> str:
    return (
        f"Inconclusive: {documents} documents are too few to decide on, and {policy.min_documents} are asked for "
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
