"""Stage `choose_lengths`, and how the lengths of a run's trainings are found that let it end within the minutes that were given.

One number is searched for, the tokens of distillation; finetuning grows with its root, for adapters learn a form and not a
language. The time of each length is the plan's.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig, flatten
from leanpipe.core.errors import UserError
from leanpipe.core.keys import NotInKey
from leanpipe.core.lineage import NOTHING
from leanpipe.core.report import Report
from leanpipe.core.stage import Inputs, Runner, Stage, Summary, stage
from leanpipe.core.store import Artifact
from leanpipe.planning.preflight import CheckInputs

LENGTHS = ("distill.tokens", "finetune.tokens")
"""The settings that are chosen."""
LEAST_STEPS = 32
"""Of each training: in fewer a tenth of them, the warming up, is nothing, and no student has learned."""
RESERVE = 0.15
"""Share of the minutes for what no plan foretells: start, checks, parity, formats. Of the default run, planned from an earlier
one, 470 of 553 s were foretold (26 November 2026)."""
_NEAR_ENOUGH = 0.02
_TRIES = 16
_MOST_TOKENS = 10**12

Seconds = Callable[[Any], float]
"""What a run with these settings should take."""


class Lengths(NamedTuple):
    """What was found for the minutes that were given."""

    tokens: dict[str, int]
    """By setting, in the order of `LENGTHS`."""
    seconds: float
    """What the run should take with them, by its plan."""

    @property
    def sentence(self) -> str:
        """What was chosen, for a person."""
        chosen = ", ".join(f"{name}={tokens:,}" for name, tokens in self.tokens.items())
        return f"{chosen}: by the plan {self.seconds / 60:.1f} minutes, and some for what no plan foretells"


def find_lengths(settings: Any, seconds: Seconds) -> Lengths:
    """Search for the longest trainings with which a run of `settings` should end within `settings.minutes`.

    Raises UserError if it would not even with the shortest that make sense, and names the least minutes.
    """
    limit = settings.minutes * 60 * (1 - RESERVE)

    def taken(tokens: int) -> float:
        return seconds(with_lengths(settings, _lengths(settings, tokens)))

    least = LEAST_STEPS * _step(settings.distill.batch, settings.tokenize.block_length)
    shortest = taken(least)
    if shortest > limit:
        raise UserError(
            f"minutes is {settings.minutes:g}, but with {LEAST_STEPS} steps of each training, which is the least that makes sense, "
            f"this run should take {_least_minutes(shortest):g} minutes here: set minutes to that or more, or take a smaller teacher "
            "or fewer formats"
        )
    found, needed = _longest(taken, least, shortest, limit)
    return Lengths(_lengths(settings, found), needed)


def once(run: Runner) -> Runner:
    """Return `run`, which answers from memory what it was asked before: one search plans the same stages many times."""
    known: dict[str, Artifact] = {}

    def remembered(stage: Stage, config: StageConfig, inputs: Inputs) -> Artifact:
        asked = f"{stage.name} {config.model_dump_json()}"
        if asked not in known:
            known[asked] = run(stage, config, inputs)
        return known[asked]

    return remembered


def with_lengths(settings: Any, tokens: Mapping[str, int]) -> Any:
    """Return the settings with these lengths in the place of their own."""
    sections = {path.split(".")[0]: count for path, count in tokens.items()}
    changed = {
        name: getattr(settings, name).model_copy(update={"tokens": count}) for name, count in sections.items()
    }
    return settings.model_copy(update=changed)


def _lengths(settings: Any, tokens: int) -> dict[str, int]:
    own, finetune = settings.distill.tokens, settings.finetune
    least = LEAST_STEPS * _step(finetune.batch, finetune.max_length)
    return dict(
        zip(LENGTHS, (tokens, max(least, _round(finetune.tokens * math.sqrt(tokens / own)))), strict=True)
    )


def _step(batch: int, block: int) -> int:
    return (batch or 1) * block


def _least_minutes(seconds: float) -> float:
    return math.ceil(seconds / 60 / (1 - RESERVE) * 10) / 10


def _round(tokens: float) -> int:
    """Down to three digits: more would say that the time is known so well."""
    digits = max(0, math.floor(math.log10(tokens)) - 2)
    return math.floor(tokens / 10**digits) * 10**digits


def _longest(taken: Callable[[int], float], least: int, shortest: float, limit: float) -> tuple[int, float]:
    """The most tokens that are within the limit, nearly, and their time. It grows about as they do, so a line tells where to look."""
    fits, fitting, over = (least, shortest), (least, shortest), _MOST_TOKENS
    guess = 2 * least
    for _ in range(_TRIES):
        time = taken(guess)
        slope = (time - fits[1]) / (guess - fits[0])
        if time > limit:
            over = guess
        elif guess > fitting[0]:
            fitting = (guess, time)
        if over <= fitting[0] * (1 + _NEAR_ENOUGH) or limit - fitting[1] < _NEAR_ENOUGH * limit:
            break
        ahead = fitting[0] + (limit - fitting[1]) / slope if slope > 0 else 8.0 * guess
        # No further than where it was too long, and no step that could not be told from none.
        nearest = max(fitting[0] * (1 + _NEAR_ENOUGH), min(ahead, 0.99 * over, 64.0 * fitting[0]))
        fits, guess = fitting, max(fitting[0] + 1, _round(nearest))
    return fitting


class LengthsConfig(StageConfig):
    """The minutes, on what, and the settings of the run; and the lengths that were found for them."""

    minutes: float = Field(gt=0, le=1_000_000)
    """Minutes that the run may take."""
    device: str = Field(max_length=1_000)
    """What the maker calls the device."""
    cores: int = Field(ge=1, le=100_000)
    """How many cores work at it."""
    settings: dict[str, Any]
    """All settings of the run but the lengths, by path."""
    found: Annotated[
        dict[str, Any], NotInKey("what was found first is kept, so that nothing is computed twice")
    ]
    """The lengths by setting, and `seconds`."""


@stage(version=1, reads=dict.fromkeys(CheckInputs.__dataclass_fields__, NOTHING))
def choose_lengths(config: LengthsConfig, inputs: CheckInputs, out: Path, report: Report) -> Summary:
    """Keep the lengths that were found: the same run finds the same ones again, and so all that was computed with them.

    A plan knows more after each run, so it would tell another length every time.
    """
    return dict(config.found)


def lengths_config(settings: Any, found: Lengths | None = None) -> LengthsConfig:
    """What the stage is told of a run with these settings on this machine, or what its key is made of where nothing was found yet."""
    others = {path: value for path, value in flatten(settings).items() if path not in (*LENGTHS, "minutes")}
    others = {path: value for path, value in others.items() if not path.startswith("registration.")}
    return LengthsConfig(
        minutes=settings.minutes,
        device=device.model(),
        cores=device.cores(),
        settings=others,
        found=found.tokens | {"seconds": found.seconds} if found else {},
    )


def kept_lengths(summary: Summary) -> Lengths:
    """Return the lengths that the stage kept, now or earlier."""
    return Lengths({name: int(summary[name]) for name in LENGTHS}, float(summary["seconds"]))
