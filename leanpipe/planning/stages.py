"""What each stage will take: memory, disk and work, from its config and those of the models that go in."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leanpipe.compression.quantize import QuantizeConfig
from leanpipe.planning.memory import PROCESS, Size, lora_parameters, size_of, training_memory
from leanpipe.training.config import TrainingConfig
from leanpipe.training.distill import DistillConfig
from leanpipe.training.finetune import FinetuneConfig
from leanpipe.training.pretrain import PretrainConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class StagePlan:
    """An estimate. Memory and disk in bytes; work in floating-point operations."""

    stage: str
    peak: int
    """On the device; on a processor, of the stage's process."""
    host: int
    disk: int
    work: float
    parts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    basis: str = "computed"
    """Where the figures come from: computed, or corrected by so many earlier runs."""
    change: Callable[[dict[str, Any]], "StagePlan"] | None = None
    """The same stage with other settings."""
    settings: TrainingConfig | None = None


def plan_distill(
    config: DistillConfig, teacher: "Path | PretrainedConfig", block: int, kind: Kind
) -> StagePlan:
    """Of stage `distill` on blocks of `block` tokens."""
    from leanpipe.models.count import layers_for_size, with_layers

    whole = read(teacher)
    student_config = with_layers(whole, list(range(layers_for_size(whole, config.size))))
    size, large = size_of(student_config), size_of(whole)
    imitates = config.kl_weight > 0
    memory = training_memory(
        size,
        config,
        block,
        process=_process(kind),
        teacher=_bytes_of_type() * large.parameters,
        kl=imitates,
    )
    work = 6 * size.parameters + (2 * large.parameters if imitates else 0)
    return _training(
        "distill",
        config,
        size,
        size.parameters,
        memory,
        work,
        kind,
        lambda other: plan_distill(other, teacher, block, kind),
    )


def plan_pretrain(config: PretrainConfig, vocabulary: int, block: int, kind: Kind) -> StagePlan:
    """Of stage `pretrain` with a tokenizer of `vocabulary` tokens."""
    from leanpipe.models.build import decoder_config
    from leanpipe.training.depth import derive, shape_of

    derived = derive(config, vocabulary, block)
    size = size_of(decoder_config(config.architecture, shape_of(config, block), config.attention, vocabulary))
    memory = training_memory(size, derived, block, process=_process(kind))
    return _training(
        "pretrain",
        derived,
        size,
        size.parameters,
        memory,
        6 * size.parameters,
        kind,
        lambda other: plan_pretrain(other, vocabulary, block, kind),
    )


def plan_finetune(config: FinetuneConfig, model: "Path | PretrainedConfig", kind: Kind) -> StagePlan:
    """Of stage `finetune`. Afterwards the adapters are merged into a second copy of the model, in float32."""
    model_config = read(model)
    size = size_of(model_config)
    trained = lora_parameters(model_config, config.rank, config.target_modules)
    memory = training_memory(size, config, config.max_length, process=_process(kind), trained=trained)
    short = 4 if config.arithmetic == "fp32" else 2
    # On a processor the memory of the training is kept by the process, and the file that is read counts as well.
    merging = memory.peak + 6 * size.parameters if kind == "cpu" else (short + 4) * size.parameters
    parts = memory.parts | {"merging": (6 if kind == "cpu" else 4) * size.parameters}
    memory = replace(memory, peak=max(memory.peak, merging), parts=parts)
    return _training(
        "finetune",
        config,
        size,
        trained,
        memory,
        4 * size.parameters + 2 * trained,
        kind,
        lambda other: plan_finetune(other, model, kind),
    )


def plan_quantize(config: QuantizeConfig, model: "Path | PretrainedConfig", kind: Kind) -> StagePlan:
    """Of stage `quantize`: one model in half precision, and a smaller one beside it."""
    size = size_of(read(model))
    peak = _process(kind) + round(3.2 * size.parameters)
    disk = sum({"int8": 1, "nf4": 0.6}[form] * size.parameters + size.head for form in config.formats)
    return StagePlan("quantize", peak, _host(kind, peak), round(disk), 4.0 * size.parameters * 64)


def _training(
    stage: str,
    config: TrainingConfig,
    size: Size,
    trained: int,
    memory: Any,
    work: float,
    kind: Kind,
    again: Callable[[Any], StagePlan],
) -> StagePlan:
    """Disk holds two checkpoints with the optimiser's state, and the model in bfloat16."""
    state = memory.parts["optimiser"] + 4 * trained
    return StagePlan(
        stage,
        memory.peak,
        _host(kind, memory.peak),
        2 * state + 2 * size.parameters,
        work * config.tokens,
        memory.parts,
        change=lambda update: again(type(config).model_validate(config.model_dump() | update)),
        settings=config,
    )


def _process(kind: Kind) -> int:
    """A card holds nothing of the process itself; what CUDA takes is left out of the card's memory."""
    return PROCESS if kind == "cpu" else 0


def _host(kind: Kind, peak: int) -> int:
    return (
        peak if kind == "cpu" else 4_000_000_000
    )  # CUDA's libraries, pinned buffers, a checkpoint being written


def _bytes_of_type() -> int:
    from leanpipe import device

    return 2 if device.has_bfloat16() else 4


def read(model: "Path | PretrainedConfig") -> "PretrainedConfig":
    """The config of a model folder; a config is its own."""

    from leanpipe.models.count import read_config

    return read_config(model) if isinstance(model, Path) else model
