"""Which of a run's models is registered. Pure decisions, each with its reason and numbers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import Field, field_validator

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary
from leanpipe.evaluation.decide.figures import TASKS, Bound, Margin, breach, parse_bound, parse_margin


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

    min_improvement: float = Field(0.001, ge=0.0, le=1.0)
    """A challenger becomes champion if its bits per byte are certainly lower by more than this share of the champion's…"""

    non_inferiority_margin: float = Field(0.01, ge=0.0, le=1.0)
    """…or if they are certainly higher by less than this share of the champion's, and of the best champion's so far…"""

    min_size_saving: float = Field(0.1, ge=0.0, le=1.0)
    """…and it is smaller on disk by at least this share."""

    error_budget: float = Field(0.01, gt=0.0, le=0.5)
    """Chance that, in a year, ever a model is promoted that is not as good as it has to be, however many challengers there are:
    each look at the held-out text may spend a small part of it. Smaller asks for more documents."""

    confidence: float = Field(0.95, ge=0.5, le=0.9999)
    """Certainty of the interval that is shown, and by which a challenger is turned away; promoting one asks for far more."""

    unit: str = Field("document", min_length=1)
    """What is drawn independently: `document`; `file` or `folder`, if documents of one are alike; or the path of a CSV file
    with the columns `source` and `group`, such as each source's author."""

    min_documents: int = Field(5, ge=2, le=1_000_000)
    """Decide nothing on fewer documents (or files, folders, groups: see unit) than this: what a few happen to say is not what
    the next would."""

    max_documents: int | None = Field(None, ge=2, le=1_000_000)
    """If the documents of evaluate.text_bytes cannot tell, score as many more as would, up to so many in all; empty for none."""

    margins: tuple[str, ...] = Field((), max_length=50)
    """How much worse than the champion's other figures of the evaluation may be, as a share of it, as
    `first_token_seconds=0.2`: certainly worse by less, by the errors that the evaluation states."""

    bounds: tuple[str, ...] = Field((), max_length=50)
    """What a model must have to be registered, as `peak_memory_bytes<=3e8`; of a stage, as
    `finetune.forgotten_bits_per_byte<=0.05` or `clean.dropped_decontaminate<=0`."""

    approval: bool = False
    """Before a challenger becomes champion pause the run until a person says yes, on its page in Prefect."""

    approval_hours: float = Field(24.0, gt=0.0, le=1_000.0)
    """How long a person is waited for; then the champion stays."""

    @field_validator("margins")
    @classmethod
    def _margins_are_known(cls, margins: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(margins, parse_margin)

    @field_validator("bounds")
    @classmethod
    def _bounds_are_known(cls, bounds: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(bounds, parse_bound)

    def parsed_margins(self) -> list[Margin]:
        """The margins by the names of their figures."""
        return [parse_margin(text) for text in self.margins]

    def parsed_bounds(self) -> list[Bound]:
        """The bounds by the names of their figures."""
        return [parse_bound(text) for text in self.bounds]

    def asked_figures(self) -> list[str]:
        """The names of the figures that have a margin or a bound."""
        return [one.name for one in self.parsed_margins()] + [one.name for one in self.parsed_bounds()]


def _checked(texts: tuple[str, ...], parse: Callable[[str], object]) -> tuple[str, ...]:
    for text in texts:
        try:
            parse(text)
        except UserError as error:
            raise ValueError(str(error)) from error
    return texts


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


def choose(
    candidates: Mapping[str, Summary], policy: RegisterConfig, faults: Mapping[str, str] | None = None
) -> Choice:
    """The candidate to register, of those that lose little against the best of them and are small enough.

    Candidates are summaries of `evaluate`, by label, with such figures of stages beside them as the policy bounds. `faults` has a sentence, from `parity`, for each that does not answer
    as it was trained: that is never registered, nor measured against. Raises UserError if there is none, if they were
    evaluated on different text, or if a figure is not finite.
    """
    check_figures(candidates)
    faults = faults or {}
    sound = [label for label in candidates if label not in faults]
    best = min(sound or candidates, key=lambda label: candidates[label]["bits_per_byte"])
    assessments = {
        label: Assessment(False, f"does not answer as it was trained: {faults[label]}")
        if label in faults
        else _assess(summary, best, candidates[best], policy)
        for label, summary in candidates.items()
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
    reason += "".join(f" {label} {assessments[label].reason}." for label in candidates if label in faults)
    return Choice(chosen, reason, assessments)


def _assess(summary: Summary, best: str, best_summary: Summary, policy: RegisterConfig) -> Assessment:
    loss = summary["bits_per_byte"] / best_summary["bits_per_byte"] - 1
    size = summary["size_bytes"] / 1e6
    figures = f"has {_quality(summary)}, {loss:.2%} more bits than the best ({best})"
    if policy.max_size_mb is not None and size > policy.max_size_mb:
        return Assessment(False, f"{figures}, and is larger than the {policy.max_size_mb:g} MB allowed")
    if out := breach(summary, policy.parsed_bounds()):
        return Assessment(False, f"{figures}, and {out}")
    if loss > policy.max_quality_loss:
        return Assessment(False, f"{figures}, where {policy.max_quality_loss:.2%} is allowed")
    return Assessment(True, f"{figures}, within the {policy.max_quality_loss:.2%} allowed")


def check_figures(candidates: Mapping[str, Summary]) -> None:
    """Raise UserError if nothing can be decided on these summaries of `evaluate`, by label."""
    if not candidates:
        raise UserError("there is no model to choose from: evaluate at least one")
    for label, summary in candidates.items():
        of_tasks = (name for name in summary if name.startswith(f"{TASKS}/"))
        for name in ("bits_per_byte", "bits_per_byte_error", "size_bytes", *of_tasks):
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


def _quality(summary: Summary) -> str:
    bits, error = summary["bits_per_byte"], summary["bits_per_byte_error"]
    return f"{bits:.4f} ± {error:.4f} bits/byte at {summary['size_bytes'] / 1e6:.1f} MB"
