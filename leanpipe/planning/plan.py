"""What a whole flow will take, what of it does not fit, and which knob brings it under."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.store import Store
from leanpipe.planning.history import History
from leanpipe.planning.machine import GIGABYTE, Machine, machine
from leanpipe.planning.stages import (
    StagePlan,
    plan_cache,
    plan_clean,
    plan_distill,
    plan_evaluate,
    plan_finetune,
    plan_on_policy,
    plan_pretrain,
    plan_quantize,
    plan_tokenize,
    read,
)
from leanpipe.training.distill.distill import student_config
from leanpipe.training.on_policy.on_policy import OnPolicyConfig
from leanpipe.training.trainer.config import TrainingConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TEACHERS_VOCABULARY = 50_000
"""Where a tokenizer is asked for whose model is not known."""


@dataclass(frozen=True)
class Plan:
    """Of one flow on one machine."""

    machine: Machine
    stages: tuple[StagePlan, ...]

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.stages)

    @property
    def disk(self) -> int:
        """Results stay; of checkpoints only those of the stage that needs most are there at once."""
        return sum(one.disk for one in self.stages)

    def faults(self) -> list[str]:
        """One sentence for everything that does not fit."""
        found = [fault for one in self.stages if (fault := _fault(one, self.machine))]
        if self.disk > self.machine.disk:
            found.append(
                f"the run needs {_gigabytes(self.disk)} of disk, and {_gigabytes(self.machine.disk)} are free: "
                "free some, or point LEANPIPE_HOME at a larger disk"
            )
        return found

    def check(self) -> None:
        """Raise UserError if anything does not fit."""
        if faults := self.faults():
            raise UserError("; ".join(faults))

    def markdown(self) -> str:
        """A table for people."""
        memory = "memory" if self.machine.kind == "cpu" else "device memory"
        lines = [
            f"Planned for {self.machine.name}: {_gigabytes(self.machine.device_memory)} of {memory}, "
            f"{_gigabytes(self.machine.disk)} of disk free.",
            "",
            f"| stage | {memory} | host memory | disk | time | largest parts | |",
            "| --- | ---: | ---: | ---: | ---: | --- | --- |",
        ]
        lines += [_line(one) for one in self.stages]
        lines += [f"| all | | | {_gigabytes(self.disk)} | {_time(self.seconds)} | | |", ""]
        return "\n".join(lines + [f"**Does not fit:** {fault}." for fault in self.faults()]) + "\n"


def plan_flow(
    settings: StageConfig,
    models: Mapping[str, "Path | PretrainedConfig"],
    where: Machine,
    store: Store | None = None,
    corpus: int = 0,
) -> Plan:
    """The long stages of `settings`. `models` are folders or configs by the names that settings give them: teacher,
    model; `corpus` is the size of its files in bytes, 0 if that is not known. With a store, plans are corrected by what
    this model of device made of it."""
    history = History(store, where.kind, where.speed) if store else None
    stages = [
        replace(one, seconds=one.work / where.speed)
        for one in _stages(settings, models, where, corpus)
        if one is not None
    ]
    return Plan(where, tuple(_moved(history.correct(one) if history else one, where) for one in stages))


def _moved(plan: StagePlan, where: Machine) -> StagePlan:
    """With as much of the weights that are only read moved off the device as does not fit on it, if the rest does."""
    over = plan.peak - where.device_memory
    if not 0 < over <= 0.9 * plan.movable:
        return plan
    host = plan.host if where.kind == "cpu" else plan.host + over
    basis = f"{plan.basis}; {_gigabytes(over)} of the weights off the device, which is slow"
    return replace(plan, peak=where.device_memory, host=min(host, where.host_memory), basis=basis)


def _stages(
    settings: Any, models: Mapping[str, "Path | PretrainedConfig"], where: Machine, corpus: int
) -> list[StagePlan]:
    """In the order in which they run. A student is taken to be as its config says before it is made."""
    found: list[StagePlan] = []
    given = models.get("model") or models.get("teacher")
    model: Any = read(given) if given else None
    largest = model
    block = settings.tokenize.block_length if hasattr(settings, "tokenize") else 0
    if hasattr(settings, "clean") and corpus:
        found.append(plan_clean(settings.clean, corpus, where.kind))
    if hasattr(settings, "tokenize") and corpus:
        found.append(plan_tokenize(settings.tokenize, corpus, _vocabulary(settings, model), where.kind))
    if hasattr(settings, "distill"):
        if settings.distill.uses_cache:
            found.append(plan_cache(settings.cache, settings.distill.tokens, model, where.kind))
        found.append(plan_distill(settings.distill, model, block, where.kind))
        model = student_config(settings.distill, model)
        model.dtype = "bfloat16"  # as models are saved here
    if hasattr(settings, "on_policy") and settings.on_policy.steps:
        found.append(plan_on_policy(settings.on_policy, largest, model, where.kind))
    if hasattr(settings, "pretrain"):
        vocabulary = _vocabulary(settings, model)
        found.append(plan_pretrain(settings.pretrain, vocabulary, block, where.kind))
    if hasattr(settings, "finetune"):
        found.append(plan_finetune(settings.finetune, model, where.kind))
    if hasattr(settings, "quantize"):
        found.append(plan_quantize(settings.quantize, model, where.kind))
    if hasattr(settings, "evaluate") and largest is not None:
        found.append(plan_evaluate(settings.evaluate, largest, where.kind, _evaluated(settings)))
    return found


def _vocabulary(settings: Any, model: Any) -> int:
    own = settings.tokenize.tokenizer != "teacher"
    return settings.tokenize.vocabulary if own else getattr(model, "vocab_size", _TEACHERS_VOCABULARY)


def _evaluated(settings: Any) -> int:
    """How many models are: those that are compared, or the teacher and what is made of it."""
    named = getattr(settings, "models", None)
    made = sum(hasattr(settings, stage) for stage in ("distill", "pretrain", "finetune"))
    return (
        len(named) if named else 1 + made + len(getattr(getattr(settings, "quantize", None), "formats", ()))
    )


def plan_on(
    name: str,
    settings: StageConfig,
    models: Mapping[str, "Path | PretrainedConfig"],
    store: Store,
    corpus: int = 0,
) -> Plan:
    """On the machine called `name` (see `machine`). Only what ran here corrects what will run here."""
    where = machine(name, store.root)
    return plan_flow(settings, models, where, store if name == "this" else None, corpus)


_KNOBS: Sequence[dict[str, Any]] = (
    {"micro_batch": 1},
    {"gradient_checkpointing": True},
    {"optimizer": "adamw_8bit"},
    {"optimizer": "adafactor"},
)
"""From what costs least to what costs most."""


def _fault(plan: StagePlan, where: Machine) -> str | None:
    if plan.peak <= where.device_memory:
        return _host_fault(plan, where)
    return (
        f"{plan.stage} needs {_gigabytes(plan.peak)} of memory and {where.name} has "
        f"{_gigabytes(where.device_memory)}: {_advice(plan, where)}"
    )


def _host_fault(plan: StagePlan, where: Machine) -> str | None:
    if plan.host <= where.host_memory:
        return None
    return (
        f"{plan.stage} needs {_gigabytes(plan.host)} of host memory and {where.name} has "
        f"{_gigabytes(where.host_memory)}: lower clean.execution.workers or give it a smaller model"
    )


def _advice(plan: StagePlan, where: Machine) -> str:
    """The fewest of the knobs, turned one after the other, that bring the stage under."""
    factor = plan.peak / _uncorrected(plan)
    together = [
        {name: value for knob in _KNOBS[:count] for name, value in knob.items()} for count in (2, 3, 4)
    ]
    for update in [*_smaller_micro_batches(plan.settings), *map(dict, _KNOBS), *together]:
        if (
            plan.change
            and _changes(plan.settings, update)
            and plan.change(update).peak * factor <= where.device_memory
        ):
            return "set " + ", ".join(
                f"{plan.stage}.{name}={str(value).lower()}" for name, value in update.items()
            )
    return "give it a smaller model or shorter blocks, or a larger card"


def _smaller_micro_batches(settings: TrainingConfig | OnPolicyConfig | None) -> list[dict[str, Any]]:
    """The halves of what is in memory at once, that half again, and so on, as far as the batch is made of whole ones."""
    sizes = [settings.in_memory >> times for times in range(1, 17)] if settings else []
    return [{"micro_batch": size} for size in sizes if settings and size and settings.in_memory % size == 0]


def _uncorrected(plan: StagePlan) -> int:
    return plan.change({}).peak if plan.change else plan.peak


def _changes(settings: TrainingConfig | OnPolicyConfig | None, update: Mapping[str, Any]) -> bool:
    """Whether there is such a setting, it may be changed, and it is another."""
    if not all(hasattr(settings, name) for name in update):
        return False
    if "optimizer" in update and getattr(settings, "sharding", "none") == "full":
        return False
    return any(getattr(settings, name) != value for name, value in update.items())


def _line(plan: StagePlan) -> str:
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:3]
    time = _time(plan.seconds) if plan.work else "–"
    parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in largest)
    return (
        f"| {plan.stage} | {_gigabytes(plan.peak)} | {_gigabytes(plan.host)} | {_gigabytes(plan.disk)} | "
        f"{time} | {parts} | {plan.basis} |"
    )


def _gigabytes(size: float) -> str:
    return f"{size / GIGABYTE:.2f} GB" if size < 10 * GIGABYTE else f"{size / GIGABYTE:,.0f} GB"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
