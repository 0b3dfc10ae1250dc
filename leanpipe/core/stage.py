"""What a stage is, and how one is run in this process.

A stage is a function `(config, inputs, out, report) -> summary`, pure but for the files it writes under `out`.
Add one in six lines: see README.
"""

import dataclasses
import importlib
import importlib.metadata
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from leanpipe.core import device
from leanpipe.core.config import StageConfig, content
from leanpipe.core.report import MetricsFile, Report, Together, replay
from leanpipe.core.store import MANIFEST, REPORT, Artifact, Manifest, Store, digest_json
from leanpipe.processes.launcher import run_together

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
    shortcuts: tuple[str, ...] = ()
    """Inputs that save work and change nothing in the result, so that they are no part of its key."""

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
        return self._key(config, self.digests(inputs))

    def made(self, manifest: Manifest) -> StageConfig | None:
        """The settings of a result; None if the stage as it is now did not make it."""
        try:
            config = self.config_type.model_validate(manifest.config)
        except ValidationError:
            return None
        return config if self._key(config, manifest.inputs) == manifest.key else None

    def _key(self, config: StageConfig, inputs: Mapping[str, Any]) -> str:
        return digest_json([self.name, self.version, content(config), inputs])[:32]

    def digests(self, inputs: Inputs) -> dict[str, Any]:
        """The digests of the inputs that count, by name."""
        return {
            name: value.digest if isinstance(value, Artifact) else [one.digest for one in value]
            for name, value in inputs.items()
            if name not in self.shortcuts
        }

    def bind(self, inputs: Inputs) -> Any:
        """The stage's own inputs class, filled with the paths of the artifacts."""
        return self.inputs_type(**{name: _paths(value) for name, value in inputs.items()})


def stage(
    *, version: int, uses_device: bool = False, shortcuts: tuple[str, ...] = ()
) -> Callable[[Callable[..., Summary]], Stage]:
    """Make a stage of a function. One that `uses_device` runs alone on it and in a process of its own."""
    return lambda function: Stage(function, version, uses_device, shortcuts)


def find_stage(address: str) -> Stage:
    module, name = address.split(":")
    return getattr(importlib.import_module(module), name)


def results(stage: Stage, config: StageConfig, store: Store) -> Iterator[tuple[Path, Manifest]]:
    """Everything that the stage, as it is now, has published with these settings, with its folder."""
    for path in sorted((store.root / stage.name).glob(f"*/{MANIFEST}")):
        manifest = Manifest.model_validate_json(path.read_text())
        if (made := stage.made(manifest)) and content(made) == content(config):
            yield path.parent, manifest


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
    processes = getattr(config, "processes", 1)
    if processes > 1:
        summary, peak = run_together(processes, _job(stage, config, inputs, out), listeners, stage.name)
    else:
        summary, peak = stage.function(config, stage.bind(inputs), out, listeners), device.peak_memory()
    return store.publish(
        stage.name,
        key,
        config=config.model_dump(mode="json"),
        inputs=stage.digests(inputs),
        summary=summary,
        versions={name: importlib.metadata.version(name) for name in _VERSIONS_OF},
        seconds=time.perf_counter() - started,
        peak_memory=peak,
        device=device.model() if stage.uses_device else "",
    )


def _job(stage: Stage, config: StageConfig, inputs: Inputs, out: Path) -> dict[str, Any]:
    """The stage as another process reads it."""
    paths = {name: _paths(value) for name, value in inputs.items()}
    return {
        "stage": stage.address,
        "config": config.model_dump(mode="json"),
        "inputs": {
            name: str(path) if isinstance(path, Path) else list(map(str, path))
            for name, path in paths.items()
        },
        "out": str(out),
    }


def _paths(value: Artifact | Sequence[Artifact]) -> Path | tuple[Path, ...]:
    return value.path if isinstance(value, Artifact) else tuple(one.path for one in value)
