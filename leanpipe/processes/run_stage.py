"""Run a stage in this process, or in several that it starts: from the store if it is there, else computed and published."""

import importlib.metadata
from pathlib import Path
from typing import Any

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError, sentence_of
from leanpipe.core.report import CatchUp, MetricsFile, MultiReport, Report
from leanpipe.core.stage import Inputs, Stage, paths_of, stored
from leanpipe.core.store import REPORT, Artifact, Store
from leanpipe.processes.attempts import Attempts
from leanpipe.processes.launcher import launch

_VERSIONS_OF = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")


def run_stage(stage: Stage, config: StageConfig, inputs: Inputs, store: Store, report: Report) -> Artifact:
    """The stage's result: from the store if it is there, else computed here and published. Metrics go to `report`.

    Raises what the stage raises, and UserError for what is no fault of it, such as a full disk.
    """
    try:
        return _find_or_compute(stage, config, inputs, store, report)
    except UserError:
        raise
    except Exception as error:
        if said := sentence_of(error):
            raise UserError(f"{stage.name}: {said}") from error
        raise


def _find_or_compute(
    stage: Stage, config: StageConfig, inputs: Inputs, store: Store, report: Report
) -> Artifact:
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
    processes, settings = getattr(config, "processes", 1), config.model_dump(mode="json")
    with Attempts(out, settings, measures_memory=processes == 1) as attempts:
        if processes > 1:
            summary, peak = launch(processes, _job(stage, config, inputs, out), listeners, stage.name)
        else:
            summary, peak = stage.function(config, stage.bind(inputs), out, listeners), device.peak_memory()
        peak, seconds = attempts.peak(peak), attempts.seconds
    heard.finish()
    if attempts.count > 1:
        report.metrics({"attempts": attempts.count})
    if "peak_memory" in summary:  # of the last attempt alone, as the stage knows it
        summary = {**summary, "peak_memory": max(peak, summary["peak_memory"])}
    return store.publish(
        stage.name,
        key,
        config=settings,
        inputs=stage.digests(inputs),
        summary=summary,
        versions={name: importlib.metadata.version(name) for name in _VERSIONS_OF},
        seconds=seconds,
        attempts=attempts.count,
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
