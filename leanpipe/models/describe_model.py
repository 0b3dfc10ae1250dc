"""Stage `describe_model`: how many parameters each kind of module of a model has, as a table and a picture."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.estimate import Estimate, ExpectedInputs, without_device
from leanpipe.core.lineage import NOTHING
from leanpipe.core.markdown import table
from leanpipe.core.plots import draw_bars
from leanpipe.core.report import Report
from leanpipe.core.stage import Page, Summary, stage

_PROCESS = 455_000_000
"""Bytes of a process that has imported torch, transformers and matplotlib. Measured on the shape of SmolLM2-135M."""


class DescribeModelConfig(StageConfig):
    """How a model's parameters are counted."""

    depth: int = Field(2, ge=1, le=6)
    """How many parts of a module's name are kept, numbers left out: 1 tells attention from the rest of a layer, 2 queries from
    keys."""


@dataclass(frozen=True)
class DescribeModelInputs:
    """A model folder."""

    model: Path


def estimate_describe_model(config: DescribeModelConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """Estimate what `describe_model` takes: a process, for the model is made without memory."""
    return without_device(kind, 100_000, {"process": _PROCESS}, {})


@stage(
    version=1,
    estimate=estimate_describe_model,
    reads={"model": NOTHING},
    pages=(Page("parameters.md", "parameters", "How many parameters each kind of module has"),),
)
def describe_model(
    config: DescribeModelConfig, inputs: DescribeModelInputs, out: Path, report: Report
) -> Summary:
    """Write `parameters.json`, and a table and a picture of it. Reads the model's config only; tied weights count once."""
    from leanpipe.models.count import empty_model, read_config

    counted: Counter[str] = Counter()
    for name, parameter in empty_model(read_config(inputs.model)).named_parameters():
        counted[kind_of_module(name, config.depth)] += parameter.numel()
    rows = counted.most_common()
    total = counted.total()
    (out / "parameters.json").write_text(json.dumps(dict(rows), indent=2))
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [(name, f"{count:,}", f"{count / total:.1%}") for name, count in rows]
    (folder / "parameters.md").write_text(table(("module", "parameters", "share"), lines))
    draw_bars(folder / "parameters.png", f"{total:,} parameters", rows, unit="parameters")
    summary = {"parameters": total, "kinds_of_modules": len(rows), "largest_share": rows[0][1] / total}
    report.metrics({name: float(value) for name, value in summary.items()})
    return summary


def kind_of_module(parameter: str, depth: int) -> str:
    """The last `depth` parts of the name of the module that has a parameter, without the numbers of layers and experts."""
    parts = [part for part in parameter.split(".")[:-1] if not part.isdigit()]
    return ".".join(parts[-depth:])
