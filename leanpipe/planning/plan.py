"""What a whole flow will take, what of it does not fit, and which knob brings it under."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, Repeated
from leanpipe.core.stage import Runner
from leanpipe.core.store import Store
from leanpipe.planning.history import History
from leanpipe.planning.machine import GIGABYTE, Machine, machine
from leanpipe.planning.pace import TIMED_STEPS, Pace, measure
from leanpipe.planning.steps import RunInputs, Step, Story, steps_of


@dataclass(frozen=True)
class StagePlan:
    """What one step of a flow will take on one machine."""

    step: Step
    estimate: Estimate
    """Corrected by earlier runs, and with what does not fit moved off the device."""
    seconds: float
    basis: str
    """Where the figure of memory comes from: computed, or corrected by so many earlier runs."""
    time_basis: str = ""
    """Where the seconds come from: earlier runs, a few steps that were timed here, or what such a device is assumed to do."""

    @property
    def label(self) -> str:
        """The stage's name, or its label where a flow has it several times."""
        return self.step.label


@dataclass(frozen=True)
class Plan:
    """What one flow will take on one machine."""

    machine: Machine
    stages: tuple[StagePlan, ...]
    """The steps of which something is known."""
    steps: tuple[Step, ...]
    """All steps, in order."""

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.stages)

    @property
    def disk(self) -> int:
        """Results stay; of checkpoints only those of the stage that needs most are there at once."""
        return sum(one.estimate.disk for one in self.stages)

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
    story: Story,
    settings: StageConfig,
    given: RunInputs,
    where: Machine,
    store: Store | None = None,
    run: Runner | None = None,
) -> Plan:
    """The stages of a flow of which something is known. With a store, they are corrected by what this model of device made
    of earlier ones; what never ran here long enough is timed for a few steps, if `run` may run the stage that does so.
    Raises UserError where a stage cannot even be estimated."""
    history = History(store, where.kind) if store else None
    steps = steps_of(story, settings, given, where.kind)
    known = [step for step in steps if step.estimate.is_known]
    planned = [_planned(step, where, history) for step in known]
    if run and store:
        assumed = [one for one in planned if one.time_basis == ASSUMED and not _fault(one, where)]
        paces = measure([work for one in assumed for work in _repeated(one)], store, run)
        planned = [_timed(one, paces) for one in planned]
    return Plan(where, tuple(planned), tuple(steps))


def plan_on(
    name: str,
    story: Story,
    settings: StageConfig,
    given: RunInputs,
    store: Store,
    run: Runner | None = None,
) -> Plan:
    """Plan for the machine called `name` (see `machine`). Only what ran here corrects what will run here."""
    here = name == "this"
    return plan_flow(
        story, settings, given, machine(name, store.root), store if here else None, run if here else None
    )


ASSUMED = "time assumed from the device's peak"
_STAGE_SECONDS = {"cpu": 3.0, "cuda": 6.0}
"""What a stage takes beside its repeated work: its process, loading, checking and writing a small model."""


def _planned(step: Step, where: Machine, history: History | None) -> StagePlan:
    estimate, basis = step.estimate, "computed"
    seconds, runs = 0.0, 0
    if history:
        estimate, basis = history.correct(step.stage, estimate)
        seconds, runs = history.seconds(step.stage, step.estimate)
    if runs:
        return _moved(StagePlan(step, estimate, seconds, basis, f"time from {_runs(runs)}"), where)
    return _moved(StagePlan(step, estimate, estimate.work / where.speed, basis, ASSUMED), where)


def _runs(number: int) -> str:
    return f"{number} earlier run{'s' if number > 1 else ''}"


def _repeated(plan: StagePlan) -> list[Repeated]:
    """The repeated work of which there is any."""
    return [work for work in plan.step.estimate.repeated if work.tokens]


def _timed(plan: StagePlan, paces: Mapping[Repeated, Pace]) -> StagePlan:
    """With the time that its repeated work should take by what was measured of each kind, if all of it was."""
    repeated = _repeated(plan)
    if plan.time_basis != ASSUMED or not repeated or not all(work in paces for work in repeated):
        return plan
    seconds = sum(work.tokens * paces[work].seconds_per_token for work in repeated)
    kind: Kind = device.name()
    basis = f"time measured here in up to {TIMED_STEPS} steps"
    if any(paces[work].disturbed for work in repeated):
        basis += ", while other processes had the cores"
    return replace(plan, seconds=seconds + _STAGE_SECONDS[kind], time_basis=basis)


def _moved(plan: StagePlan, where: Machine) -> StagePlan:
    """With as much of the weights that are only read moved off the device as does not fit on it, if the rest does."""
    estimate = plan.estimate
    over = estimate.peak - where.device_memory
    if not 0 < over <= 0.9 * estimate.movable:
        return plan
    host = estimate.host if where.kind == "cpu" else estimate.host + over
    basis = f"{plan.basis}; {_gigabytes(over)} of the weights off the device, which is slow"
    moved = replace(estimate, peak=where.device_memory, host=min(host, where.host_memory))
    return replace(plan, estimate=moved, basis=basis)


_KNOBS: Sequence[dict[str, Any]] = (
    {"micro_batch": 1},
    {"gradient_checkpointing": True},
    {"optimizer": "adamw_8bit"},
    {"optimizer": "adafactor"},
)
"""From what costs least to what costs most."""


def _fault(plan: StagePlan, where: Machine) -> str | None:
    peak = plan.estimate.peak
    if peak <= where.device_memory:
        return _host_fault(plan, where)
    return (
        f"{plan.label} needs {_gigabytes(peak)} of memory and {where.name} has "
        f"{_gigabytes(where.device_memory)}: {_advice(plan, where)}"
    )


def _host_fault(plan: StagePlan, where: Machine) -> str | None:
    if plan.estimate.host <= where.host_memory:
        return None
    return (
        f"{plan.label} needs {_gigabytes(plan.estimate.host)} of host memory and {where.name} has "
        f"{_gigabytes(where.host_memory)}: lower clean.execution.workers or give it a smaller model"
    )


def _advice(plan: StagePlan, where: Machine) -> str:
    """The fewest of the knobs, turned one after the other, that bring the stage under."""
    step, factor = plan.step, plan.estimate.peak / plan.step.estimate.peak
    together = [
        {name: value for knob in _KNOBS[:count] for name, value in knob.items()} for count in (2, 3, 4)
    ]
    for update in [*_smaller_micro_batches(step.config), *map(dict, _KNOBS), *together]:
        if _changes(step.config, update) and _peak(step, update, where.kind) * factor <= where.device_memory:
            return "set " + ", ".join(
                f"{step.stage.name}.{name}={str(value).lower()}" for name, value in update.items()
            )
    return "give it a smaller model or shorter blocks, or a larger card"


def _peak(step: Step, update: Mapping[str, Any], kind: Kind) -> int:
    """Memory that the stage would need with other settings."""
    assert step.stage.estimate
    config = type(step.config).model_validate(step.config.model_dump() | dict(update))
    return step.stage.estimate(config, step.inputs, kind).peak


def _smaller_micro_batches(config: StageConfig) -> list[dict[str, Any]]:
    """The halves of what is in memory at once, that half again, and so on, as far as the batch is made of whole ones."""
    at_once = getattr(config, "in_memory", 0)
    sizes = [at_once >> times for times in range(1, 17)]
    return [{"micro_batch": size} for size in sizes if size and at_once % size == 0]


def _changes(config: StageConfig, update: Mapping[str, Any]) -> bool:
    """Whether there is such a setting, it may be changed, and it is another."""
    if not all(hasattr(config, name) for name in update):
        return False
    if "optimizer" in update and getattr(config, "sharding", "none") == "full":
        return False
    return any(getattr(config, name) != value for name, value in update.items())


def _line(plan: StagePlan) -> str:
    estimate = plan.estimate
    largest = sorted(estimate.parts.items(), key=lambda part: -part[1])[:3]
    time = _time(plan.seconds) if estimate.work else "–"
    basis = f"{plan.basis}; {plan.time_basis}" if estimate.work else plan.basis
    basis += f"; {estimate.derived}" if estimate.derived else ""
    parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in largest)
    return (
        f"| {plan.label} | {_gigabytes(estimate.peak)} | {_gigabytes(estimate.host)} | "
        f"{_gigabytes(estimate.disk)} | {time} | {parts} | {basis} |"
    )


def _gigabytes(size: float) -> str:
    return f"{size / GIGABYTE:.2f} GB" if size < 10 * GIGABYTE else f"{size / GIGABYTE:,.0f} GB"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
