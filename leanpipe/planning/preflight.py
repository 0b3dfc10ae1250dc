"""Stage `check`: everything about a flow's settings that can be known to be wrong before its first long stage starts."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.estimate import Expected
from leanpipe.core.lineage import NOTHING
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage
from leanpipe.models.load import check_tokenizer
from leanpipe.models.offload import check_weights
from leanpipe.planning.steps import RunInputs, StepConfig, check_steps


class CheckConfig(StageConfig):
    """The stages that a flow will run, with their settings."""

    device: str = Field(pattern="^(cpu|cuda)$")
    """The device that was checked: what runs on one may not run on another."""
    steps: tuple[StepConfig, ...]
    """The stages, in order."""


@dataclass(frozen=True)
class CheckInputs:
    """What the run starts from."""

    corpus: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()
    instructions: Path | None = None
    evaluation_sets: tuple[Path, ...] = ()
    tasks: tuple[Path, ...] = ()
    prompt_set: Path | None = None


_ROLES = ("corpus", "models", "model", "instructions", "evaluation_sets", "tasks", "prompt_set")


@stage(version=3, uses_device=True, reads=dict.fromkeys(_ROLES, NOTHING))
def check(config: CheckConfig, inputs: CheckInputs, out: Path, report: Report) -> Summary:
    """Raise the UserError that a later stage would raise. Reads configs and data, loads no weights."""

    def known(paths: tuple[Path, ...]) -> tuple[Expected, ...]:
        return tuple(map(Expected, paths))

    given = RunInputs(
        known(inputs.corpus),
        known(inputs.models),
        inputs.instructions and Expected(inputs.instructions),
        known(inputs.evaluation_sets),
        known(inputs.tasks),
        inputs.prompt_set and Expected(inputs.prompt_set),
    )
    for model in inputs.models:
        check_tokenizer(model)
        check_weights(model)
    check_steps(config.steps, given, device.name())
    return {"stages": len(config.steps)}
