"""Which model is registered, and whether it becomes the champion. Pure decisions, each with its reason and numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary


class RegisterConfig(StageConfig):
    """What a model must be to be registered, and to become the champion."""

    name: str = Field("leanpipe", min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the registered model, whose versions the models of all runs are."""

    max_quality_loss: float = Field(0.05, ge=0.0, le=10.0)
    """How much worse than the best candidate one may be, as a share of its bits per byte: 0.05 allows 5% more."""

    max_size_mb: float | None = Field(None, gt=0.0, le=1e9)
    """Largest size of the weights on disk, in millions of bytes; empty for no limit."""

    prefer_smaller: bool = True
    """Of the candidates that may be registered take the smallest; if off, take the one with the fewest bits per byte."""

    min_improvement: float = Field(0.0, ge=0.0, le=1.0)
    """A challenger becomes champion if its bits per byte are lower by more than this share of the champion's…"""

    min_size_saving: float = Field(0.1, ge=0.0, le=1.0)
    """…or if it is as good within the standard error and smaller on disk by at least this share."""


@dataclass(frozen=True)
class Assessment:
    """Whether a candidate may be registered, and why."""

    eligible: bool
    reason: str


@dataclass(frozen=True)
class Choice:
    """The candidate to register; None if no candidate may be."""

    label: str | None
    reason: str
    assessments: dict[str, Assessment]


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger becomes the champion, and why."""

    promote: bool
    reason: str


def choose(candidates: Mapping[str, Summary], policy: RegisterConfig) -> Choice:
    """The candidate to register, of those that lose little against the best of them and are small enough.

    Candidates are summaries of `evaluate`, by label. Raises UserError if there is none, if they were evaluated on
    different text, or if a figure is not finite.
    """
    _check(candidates)
    best = min(candidates, key=lambda label: candidates[label]["bits_per_byte"])
    assessments = {
        label: _assess(summary, best, candidates[best], policy) for label, summary in candidates.items()
    }
    eligible = [label for label, assessment in assessments.items() if assessment.eligible]
    if not eligible:
        why = "; ".join(f"{label} {assessment.reason}" for label, assessment in assessments.items())
        return Choice(None, f"No candidate may be registered: {why}.", assessments)
    first, second = (
        ("size_bytes", "bits_per_byte") if policy.prefer_smaller else ("bits_per_byte", "size_bytes")
    )
    chosen = min(eligible, key=lambda label: (candidates[label][first], candidates[label][second], label))
    what = "the smallest" if policy.prefer_smaller else "the best"
    reason = f"{chosen} is {what} of {len(eligible)} eligible candidates: it {assessments[chosen].reason}."
    return Choice(chosen, reason, assessments)


def beats(challenger: Summary, champion: Summary | None, policy: RegisterConfig) -> Verdict:
    """Whether `challenger` takes the place of `champion` (None: there is none yet), by their summaries of `evaluate`."""
    _check({"challenger": challenger})
    if champion is None:
        return Verdict(True, f"There is no champion yet: the first has {_quality(challenger)}.")
    if challenger["held_out_digest"] != champion["held_out_digest"]:
        return Verdict(
            False, "The champion was evaluated on other text: evaluate it on this one, then compare."
        )
    _check({"champion": champion})
    if _same_model(challenger, champion):
        return Verdict(False, f"This is the champion itself, with {_quality(champion)}.")
    gain = 1 - challenger["bits_per_byte"] / champion["bits_per_byte"]
    saving = 1 - challenger["size_bytes"] / champion["size_bytes"]
    error = math.hypot(challenger["bits_per_byte_error"], champion["bits_per_byte_error"])
    figures = f"{_quality(challenger)} against the champion's {_quality(champion)}"
    if gain > policy.min_improvement:
        return Verdict(True, f"{figures}: {gain:.2%} better, and {policy.min_improvement:.2%} is asked for.")
    as_good = challenger["bits_per_byte"] - champion["bits_per_byte"] <= error
    if as_good and saving > 0 and saving >= policy.min_size_saving:
        return Verdict(
            True, f"{figures}: as good within the standard error of {error:.4f}, and {saving:.1%} smaller."
        )
    asked = f"{policy.min_improvement:.2%} better, or as good within {error:.4f} and {policy.min_size_saving:.1%} smaller"
    return Verdict(
        False,
        f"{figures}: {_change(gain, 'better', 'worse')}, {_change(saving, 'smaller', 'larger')}; asked for is more than {asked}.",
    )


def _assess(summary: Summary, best: str, best_summary: Summary, policy: RegisterConfig) -> Assessment:
    loss = summary["bits_per_byte"] / best_summary["bits_per_byte"] - 1
    size = summary["size_bytes"] / 1e6
    figures = f"has {_quality(summary)}, {loss:.2%} more bits than the best ({best})"
    if policy.max_size_mb is not None and size > policy.max_size_mb:
        return Assessment(False, f"{figures}, and is larger than the {policy.max_size_mb:g} MB allowed")
    if loss > policy.max_quality_loss:
        return Assessment(False, f"{figures}, where {policy.max_quality_loss:.2%} is allowed")
    return Assessment(True, f"{figures}, within the {policy.max_quality_loss:.2%} allowed")


def _check(candidates: Mapping[str, Summary]) -> None:
    if not candidates:
        raise UserError("there is no model to choose from: evaluate at least one")
    for label, summary in candidates.items():
        for name in ("bits_per_byte", "bits_per_byte_error", "size_bytes"):
            if not math.isfinite(summary[name]):
                raise UserError(f"{name} of {label} is {summary[name]}: nothing can be decided on it")
        if summary["size_bytes"] <= 0:
            raise UserError(
                f"{label} was evaluated when weights that are no safetensors were not counted: delete its evaluation "
                "from the store, and it is measured again"
            )
    if len({summary["held_out_digest"] for summary in candidates.values()}) > 1:
        labels = ", ".join(candidates)
        raise UserError(
            f"{labels} were evaluated on different held-out text: evaluate all on the same, then choose"
        )


def _same_model(one: Summary, other: Summary) -> bool:
    return one["weights_digest"] == other["weights_digest"]


def _quality(summary: Summary) -> str:
    bits, error = summary["bits_per_byte"], summary["bits_per_byte_error"]
    return f"{bits:.4f} ± {error:.4f} bits/byte at {summary['size_bytes'] / 1e6:.1f} MB"


def _change(share: float, up: str, down: str) -> str:
    return f"{abs(share):.2%} {up if share >= 0 else down}"
