"""Stage `check`: everything about the settings that can be known to be wrong before the first long stage starts."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from leanpipe.compression.quantize import QuantizeConfig, check_formats
from leanpipe.core.config import StageConfig
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage
from leanpipe.training.distill.distill import DistillConfig, check_distill
from leanpipe.training.finetune.finetune import FinetuneConfig, check_finetune
from leanpipe.training.finetune.instructions import read_instructions
from leanpipe.training.on_policy.on_policy import OnPolicyConfig, check_on_policy
from leanpipe.training.pretrain.pretrain import PretrainConfig, check_pretrain


class CheckConfig(StageConfig):
    """The settings that can fail on this machine, or with this model; those of stages that will not run are None."""

    device: str = Field(pattern="^(cpu|cuda)$")
    """The device that was checked: what runs on one may not run on another."""
    distill: DistillConfig | None = None
    """Checked against the teacher's architecture and the device."""
    on_policy: OnPolicyConfig | None = None
    """Checked against the teacher, and for TRL."""
    finetune: FinetuneConfig | None = None
    """Checked against the model's modules, which are its student's too, and the device."""
    pretrain: PretrainConfig | None = None
    """Checked against the device, and for sizes that go together."""
    quantize: QuantizeConfig | None = None
    """Checked against the device."""


@dataclass(frozen=True)
class CheckInputs:
    """The model folder that the run starts from, and the instructions if there are any."""

    model: Path
    instructions: Path | None = None


@stage(version=1, uses_device=True)
def check(config: CheckConfig, inputs: CheckInputs, out: Path, report: Report) -> Summary:
    """Raise the UserError that a later stage would raise. Reads configs and data, loads no weights."""
    if config.distill:
        check_distill(config.distill, inputs.model)
    if config.on_policy:
        check_on_policy(config.on_policy, inputs.model)
    if config.finetune:
        check_finetune(config.finetune, inputs.model)
    if config.pretrain:
        check_pretrain(config.pretrain)
    if config.quantize:
        check_formats(config.quantize.formats)
    return (
        {"instructions": len(read_instructions(inputs.instructions).conversations)}
        if inputs.instructions
        else {}
    )
