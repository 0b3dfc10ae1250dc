"""What a stage is, and how one is run in this process.

A stage is a function `(config, inputs, out, report) -> summary`, pure but for the files it writes under `out`.
Add one in six lines: see README.
"""

import dataclasses
import importlib
import importlib.metadata
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leanpipe import device
from leanpipe.config import StageConfig
from leanpipe.report import MetricsFile, Report, Together, replay
from leanpipe.store import REPORT, Artifact, Store, digest_json

Summary = dict[str, Any]
"""A stage's headline figures, by name: numbers and short texts."""

Inputs = Mapping[str, Artifact | Sequence[Artifact]]

Runner = Callable[["Stage", StageConfig, Inputs], Artifact]
"""Runs one stage somewhere: here, or in a process of its own."""

_VERSIONS_OF = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage function with what its key is made of. `version` goes up when the same input gives another result."""

    function: Callable[..., Summary]
    version: int
    uses_device: bool

    @property
    def name(self) -> str:
        return self.function.__name__

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

    def key(self, config: StageConfig, inputs: Inputs) -> str:
        """The name of the result: what it is computed by and from, and nothing else."""
        return digest_json([self.name, self.version, config.model_dump(mode="json"), _digests(inputs)])[:32]

    def bind(self, inputs: Inputs) -> Any:
        """The stage's own inputs class, filled with the paths of the artifacts."""
        return self.inputs_type(**{name: _paths(value) for name, value in inputs.items()})


def stage(*, version: int, uses_device: bool = False) -> Callable[[Callable[..., Summary]], Stage]:
    """Make a stage of a function. One that `uses_device` runs alone on it and in a process of its own."""
    return lambda function: Stage(function, version, uses_device)


def find_stage(address: str) -> Stage:
    module, name = address.split(":")
    return getattr(importlib.import_module(module), name)


def run_stage(stage: Stage, config: StageConfig, inputs: Inputs, store: Store, report: Report) -> Artifact:
    """The stage's result: from the store if it is there, else computed here and published. Metrics go to `report`."""
    key = stage.key(config, inputs)
    with store.locked(f"{stage.name}-{key}"):
        if found := stored(stage, config, inputs, store, report):
            return found
        if not stage.uses_device:
            return _compute(stage, key, config, inputs, store, report)
        with store.locked(f"device-{device.name()}"):
            return _compute(stage, key, config, inputs, store, report)


def stored(
    stage: Stage, config: StageConfig, inputs: Inputs, store: Store, report: Report
) -> Artifact | None:
    """The stage's result if the store has it; the metrics of when it was computed go to `report`."""
    found = store.find(stage.name, stage.key(config, inputs))
    if found:
        replay(found.path / REPORT / "metrics.jsonl", report)
    return found


def _compute(
    stage: Stage, key: str, config: StageConfig, inputs: Inputs, store: Store, report: Report
) -> Artifact:
    out = store.partial(stage.name, key)
    listeners = Together([MetricsFile(out / REPORT / "metrics.jsonl"), report])
    device.reset_peak_memory()
    started = time.perf_counter()
    summary = stage.function(config, stage.bind(inputs), out, listeners)
    return store.publish(
        stage.name,
        key,
        config=config.model_dump(mode="json"),
        inputs=_digests(inputs),
        summary=summary,
        versions={name: importlib.metadata.version(name) for name in _VERSIONS_OF},
        seconds=time.perf_counter() - started,
        peak_memory=device.peak_memory(),
    )


def _digests(inputs: Inputs) -> dict[str, Any]:
    return {
        name: value.digest if isinstance(value, Artifact) else [one.digest for one in value]
        for name, value in inputs.items()
    }


def _paths(value: Artifact | Sequence[Artifact]) -> Path | tuple[Path, ...]:
    return value.path if isinstance(value, Artifact) else tuple(one.path for one in value)
