"""Run a stage in this process, or in several that it starts: from the store if it is there, else computed and published."""

import importlib.metadata
import time
from pathlib import Path
from typing import Any

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.report import CatchUp, MetricsFile, MultiReport, Report
from leanpipe.core.stage import Inputs, Stage, paths_of, stored
from leanpipe.core.store import REPORT, Artifact, Store
from leanpipe.processes.launcher import launch

_VERSIONS_OF = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")


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


def _compute(
    stage: Stage, key: str, config: StageConfig, inputs: Inputs, store: Store, report: Report
) -> Artifact:
    out = store.partial(stage.name, key)
    file = out / REPORT / "metrics.jsonl"
    heard = CatchUp(file, report)
    listeners = MultiReport([MetricsFile(file), heard])
    device.reset_peak_memory()
    started = time.perf_counter()
    processes = getattr(config, "processes", 1)
    if processes > 1:
        summary, peak = launch(processes, _job(stage, config, inputs, out), listeners, stage.name)
    else:
        summary, peak = stage.function(config, stage.bind(inputs), out, listeners), device.peak_memory()
    heard.finish()
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
    paths = {name: paths_of(value) for name, value in inputs.items()}
    return {
        "stage": stage.address,
        "config": config.model_dump(mode="json"),
        "inputs": {
            name: str(path) if isinstance(path, Path) else list(map(str, path))
            for name, path in paths.items()
        },
        "out": str(out),
    }
