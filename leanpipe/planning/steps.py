"""The stages that a flow will run, in order, found by letting the flow tell its story to who only listens.

A flow's story is a function `stages(run, settings, given)` that calls `run.stage(…)`. A run computes; `Steps` writes down
which stage is called with which settings, and answers with what is known of its result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, Expected, ExpectedInputs, expected
from leanpipe.core.stage import Stage, find_stage
from leanpipe.core.store import Artifact


@dataclass(frozen=True)
class RunInputs:
    """What a run starts from: Artifacts, or what is Expected of them."""

    corpus: tuple[Any, ...] = ()
    models: tuple[Any, ...] = ()
    instructions: Any = None
    evaluation_sets: tuple[Any, ...] = ()
    tasks: tuple[Any, ...] = ()
    prompt_set: Any = None

    @property
    def model(self) -> Any:
        """The first of the models: the teacher, or the only one."""
        return self.models[0]

    def named(self) -> dict[str, Any]:
        """Each of them by a name of its own: `corpus.0`, `models.0`, `instructions`."""
        several = {
            "corpus": self.corpus,
            "models": self.models,
            "evaluation_sets": self.evaluation_sets,
            "tasks": self.tasks,
        }
        named = {f"{name}.{number}": one for name, all_ in several.items() for number, one in enumerate(all_)}
        alone = {"instructions": self.instructions, "prompt_set": self.prompt_set}
        return named | {name: one for name, one in alone.items() if one}

    def expected(self) -> "RunInputs":
        """What is known of each."""

        def know(name: str, value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(know(f"{name}.{number}", one) for number, one in enumerate(value))
            if isinstance(value, Artifact):
                return expected(value, name)
            return value and replace(value, origin=name)

        return RunInputs(**{name: know(name, value) for name, value in vars(self).items()})


class StageRunner(Protocol):
    """Runs the stages of a flow, or writes them down."""

    def stage(self, stage: Stage, config: StageConfig, *, label: str | None = None, **inputs: Any) -> Any:
        """The result of `stage`. Inputs that are None or empty are left out."""


Story = Callable[[Any, Any, Any], Any]
"""`(run, settings, given)`: calls `run.stage` for each stage of a flow, in order."""


class StepConfig(BaseModel):
    """A step as another process reads it."""

    label: str
    stage: str
    """`module:function`."""
    config: dict[str, Any]
    inputs: dict[str, Any]
    """By role, the origins of what goes in: names of a run's inputs, or labels of earlier steps."""


class Step(NamedTuple):
    """One stage of a flow, with what is known of it before it runs."""

    label: str
    stage: Stage
    config: StageConfig
    inputs: ExpectedInputs
    estimate: Estimate

    def portable(self) -> StepConfig:
        """Return the step as it is told to another process."""
        origins = {
            role: value.origin if isinstance(value, Expected) else [one.origin for one in value]
            for role, value in self.inputs.items()
        }
        return StepConfig(
            label=self.label,
            stage=self.stage.address,
            config=self.config.model_dump(mode="json"),
            inputs=origins,
        )


class Steps:
    """A `StageRunner` that computes nothing: the steps are in `steps` afterwards."""

    def __init__(self, kind: Kind, check: bool = False):
        """Estimates are for a device of this kind. `check` raises what the stages refuse, as they are told."""
        self.steps: list[Step] = []
        self._kind = kind
        self._check = check

    def stage(
        self, stage: Stage, config: StageConfig, *, label: str | None = None, **inputs: Any
    ) -> Expected:
        """What is known of the result before it is there."""
        label, given = label or stage.name, present(inputs)
        if self._check and stage.check:
            stage.check(config, given)
        estimate = self._estimated(stage, config, given)
        self.steps.append(Step(label, stage, config, given, estimate))
        return Expected(facts=estimate.result, name=stage.name, origin=label)

    def _estimated(self, stage: Stage, config: StageConfig, given: ExpectedInputs) -> Estimate:
        try:
            return stage.estimate(config, given, self._kind) if stage.estimate else Estimate()
        except UserError:
            raise
        except Exception:
            # What a check refuses may be impossible to estimate: then its sentence is what a person should read.
            if stage.check:
                stage.check(config, given)
            raise


def present(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs without those that are None or empty."""
    return {role: value for role, value in inputs.items() if value is not None and value != ()}


def steps_of(story: Story, settings: Any, given: RunInputs, kind: Kind) -> list[Step]:
    """The steps of a flow with these settings. Raises UserError where a stage cannot even be estimated."""
    steps = Steps(kind)
    story(steps, settings, given.expected())
    return steps.steps


def check_steps(steps: tuple[StepConfig, ...], given: RunInputs, kind: Kind) -> None:
    """Raise the first UserError that a stage among `steps` would raise before its work."""
    known: dict[str, Expected] = given.expected().named()
    run = Steps(kind, check=True)
    for step in steps:
        stage = find_stage(step.stage)
        config = stage.config_type.model_validate(step.config)
        inputs = {role: _resolved(origin, known) for role, origin in step.inputs.items()}
        known[step.label] = run.stage(stage, config, label=step.label, **inputs)


def _resolved(origin: Any, known: Mapping[str, Expected]) -> Any:
    if isinstance(origin, list):
        return tuple(_resolved(one, known) for one in origin)
    whole, _, folder = origin.partition("/")
    return known[whole].inside(folder) if folder else known[whole]
