"""What a stage is, and what it says of itself.

A stage is a function `(config, inputs, out, report) -> summary`, pure but for the files it writes under `out`. Preflight,
plan, history, lineage and the pages of a run ask the stage for what they need to know: see docs/add-a-stage.md.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.estimate import Estimate, ExpectedInputs
from leanpipe.core.keys import ARITHMETIC, DeviceFacts, Fact, content, key_of, this_device
from leanpipe.core.lineage import NOTHING, TRAINED_ON, Uses
from leanpipe.core.report import Report, replay
from leanpipe.core.store import REPORT, Artifact, Manifest, Store

Summary = dict[str, Any]
"""A stage's headline figures, by name: numbers and short texts."""

NOT_COMPARED = ""
"""The group of a figure by which nobody compares runs: it says only what went in, or what another figure says too."""

Inputs = Mapping[str, Artifact | Sequence[Artifact]]

Runner = Callable[["Stage", StageConfig, Inputs], Artifact]
"""Runs one stage somewhere: here, or in a process of its own."""

Check = Callable[[Any, ExpectedInputs], None]
"""Raises UserError for what can be known to be wrong with a config and its inputs before any work."""

Estimator = Callable[[Any, ExpectedInputs, Kind], Estimate]
"""What a stage with this config and these inputs will take on such a device, and what its result will be like."""

FindBase = Callable[["Stage", Store, Any, Inputs], Artifact | None]
"""The earlier result that a stage with this config and these inputs can start from, if the store has one."""

Mark = Callable[[Inputs], Mapping[str, str]]
"""Names those inputs that are treated otherwise than before, and how, as parts of the key: so all other results stay valid."""

FindEarlier = Callable[["Stage", Store, Any, Inputs], Sequence[Artifact]]
"""The earlier results, of other settings, that a stage with this config and these inputs must not contradict."""


class Page(NamedTuple):
    """A Markdown file that a stage writes under `report/`, shown on the page of the run."""

    file: str
    key: str
    """The name of its artifact in Prefect."""
    description: str


class Dataset(NamedTuple):
    """A result that is a table of examples, as MLflow lists them."""

    name: str
    """What it is called among the inputs of a run."""
    columns: tuple[str, ...]
    """Its columns, all of text."""
    rows: str
    """The headline figure that counts its rows."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage function with what is known about it. `version` goes up when the same input gives another result."""

    function: Callable[..., Summary]
    version: int
    uses_device: bool
    depends_on: tuple[Fact, ...] = ()
    """What of the device decides which result it is: see `leanpipe.core.keys`."""
    shortcuts: tuple[str, ...] = ()
    """Inputs that save work and change nothing in the result, so that they are no part of its key."""
    marks: Mark | None = None
    """Facts about the inputs by which the stage does otherwise than it did when its version was last raised."""
    check: Check | None = None
    """Refuses, before any work, what cannot work."""
    estimate: Estimator | None = None
    """Says what the stage will take, and what its result will be like."""
    base: FindBase | None = None
    """Finds the input `base`, for a stage that goes on from an earlier result."""
    earlier: FindEarlier | None = None
    """Finds the input `earlier`, for a stage that remembers what was decided before under other settings."""
    reads: Mapping[str, Uses] = dataclasses.field(default_factory=dict)
    """By input, what comes of the documents in it. An input that is not named is trained on."""
    pages: tuple[Page, ...] = ()
    """What a person should be shown."""
    dataset: Dataset | None = None
    """For a result that is listed among the data sets of a run."""
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The group in which runs are compared by a headline figure, where that is not the group of all others."""

    def uses(self, role: str) -> Uses:
        """What comes of the documents in the input `role`."""
        return self.reads.get(role, NOTHING if role == "base" else TRAINED_ON)

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def purpose(self) -> str:
        """What the stage does: the first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def address(self) -> str:
        """`module:function`, by which another process finds the stage."""
        return f"{self.function.__module__}:{self.name}"

    @property
    def config_type(self) -> type[StageConfig]:
        return inspect.signature(self.function).parameters["config"].annotation

    @property
    def inputs_type(self) -> type:
        return inspect.signature(self.function).parameters["inputs"].annotation

    def key(self, config: StageConfig, inputs: Inputs, on: DeviceFacts | None = None) -> str:
        """The name of the result: what it is computed by and from, and nothing else (see `leanpipe.core.keys`).

        `on` is the device that computes it, by default this machine's.
        """
        return self._key(config, self.digests(inputs), self.device() if on is None else on)

    def with_earlier_results(self, store: Store, config: StageConfig, inputs: Inputs) -> Inputs:
        """Add to the inputs what the stage asks for of the store: results that it remembers, and one to go on from."""
        if self.earlier and (earlier := self.earlier(self, store, config, inputs)):
            inputs = {**inputs, "earlier": earlier}
        if self.base and (base := self.base(self, store, config, inputs)):
            inputs = {**inputs, "base": base}
        return inputs

    def device(self) -> DeviceFacts:
        """The facts of this machine's device; none for a stage that needs no device."""
        return this_device() if self.uses_device else {}

    def made(self, manifest: Manifest) -> StageConfig | None:
        """The settings of a result; None if the stage as it is now, on a device that counts as this one, did not make it."""
        try:
            config = self.config_type.model_validate(manifest.config)
        except ValidationError:
            return None
        return config if self._key(config, manifest.inputs, self.device()) == manifest.key else None

    def _key(self, config: StageConfig, inputs: Mapping[str, Any], on: DeviceFacts) -> str:
        return key_of(self.name, self.version, config, inputs, self.depends_on, on)

    def digests(self, inputs: Inputs) -> dict[str, Any]:
        """The digests of the inputs that count, by name."""
        digests: dict[str, Any] = {
            name: value.digest if isinstance(value, Artifact) else [one.digest for one in value]
            for name, value in inputs.items()
            if name not in self.shortcuts
        }
        return digests | dict(self.marks(inputs) if self.marks else {})

    def bind(self, inputs: Inputs) -> Any:
        """The stage's own inputs class, filled with the paths of the artifacts."""
        return self.inputs_type(**{name: paths_of(value) for name, value in inputs.items()})


_STAGES: dict[str, Stage] = {}


def stage(
    *,
    version: int,
    uses_device: bool = False,
    depends_on: tuple[Fact, ...] | None = None,
    shortcuts: tuple[str, ...] = (),
    marks: Mark | None = None,
    check: Check | None = None,
    estimate: Estimator | None = None,
    base: FindBase | None = None,
    earlier: FindEarlier | None = None,
    reads: Mapping[str, Uses] | None = None,
    pages: tuple[Page, ...] = (),
    dataset: Dataset | None = None,
    groups: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Summary]], Stage]:
    """Make a stage of a function. One that `uses_device` runs alone on it and in a process of its own.

    What it computes there depends, unless `depends_on` says otherwise, on the device's kind and arithmetic.
    What else it is told is what is known about the stage: see the fields of `Stage`.
    """

    def of(function: Callable[..., Summary]) -> Stage:
        facts = depends_on if depends_on is not None else ARITHMETIC if uses_device else ()
        made = Stage(
            function,
            version,
            uses_device,
            facts,
            shortcuts,
            marks,
            check,
            estimate,
            base,
            earlier,
            reads or {},
            pages,
            dataset,
            groups or {},
        )
        _STAGES[made.name] = made
        return made

    return of


def all_marks(*marks: Mark) -> Mark:
    """Return what makes all of these marks."""
    return lambda inputs: {name: how for mark in marks for name, how in mark(inputs).items()}


def known_stages() -> Mapping[str, Stage]:
    """The stages of all modules that were imported, by name."""
    return _STAGES


def find_stage(address: str) -> Stage:
    """Import the stage at `module:function`."""
    module, name = address.split(":")
    return getattr(importlib.import_module(module), name)


def results(stage: Stage, config: StageConfig, store: Store) -> Iterator[tuple[Path, Manifest]]:
    """Everything that the stage, as it is now, has published with these settings, with its folder."""
    on = stage.device()
    wanted = content(config, on)
    for path, manifest in store.manifests(stage.name):
        if (made := stage.made(manifest)) and content(made, on) == wanted:
            yield path, manifest


def stored(
    stage: Stage, config: StageConfig, inputs: Inputs, store: Store, report: Report
) -> Artifact | None:
    """The stage's result if the store has it; the metrics of when it was computed go to `report`."""
    found = store.find(stage.name, stage.key(config, inputs))
    if found:
        replay(found.path / REPORT / "metrics.jsonl", report)
    return found


def several(inputs: Inputs, role: str) -> Sequence[Artifact]:
    """The artifacts of an input that may be one, several or none."""
    value = inputs.get(role, ())
    return [value] if isinstance(value, Artifact) else value


def paths_of(value: Artifact | Sequence[Artifact]) -> Path | tuple[Path, ...]:
    """Return the path of an artifact, or those of several."""
    return value.path if isinstance(value, Artifact) else tuple(one.path for one in value)
