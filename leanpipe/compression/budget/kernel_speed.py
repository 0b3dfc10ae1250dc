"""Stage `kernel_speed`: how fast llama.cpp writes on this machine with a model of some shape in each of GGUF's types.

Files of zeros are as fast as any others, so nothing is quantised for it. All weights are in one type at a time; of a file
of several types each part takes its share of the time that the whole takes in the part's type.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field

from leanpipe.compression.budget.weight_groups import CANDIDATES, WeightGroup
from leanpipe.compression.gguf_export import GgufTypes, write_zeros
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.estimate import Estimate, ExpectedInputs, host_bytes, process_bytes
from leanpipe.core.files import write_text
from leanpipe.core.keys import SPEED
from leanpipe.core.lineage import NOTHING
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage

FILE = "kernel_speed.json"
_PROMPT = tuple(range(5, 13))


class KernelSpeedConfig(StageConfig):
    """How long each type is timed."""

    tokens: int = Field(48, ge=4, le=10_000)
    """Tokens that are written at a time."""
    repeats: int = Field(5, ge=1, le=100)
    """Times that they are, in turns with the other types; the median counts."""


@dataclass(frozen=True)
class KernelSpeedInputs:
    """A model folder, of which only the shape and the tokenizer are read."""

    model: Path


def estimate_kernel_speed(config: KernelSpeedConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `kernel_speed` takes: the file of every type, one after the other on the disk, together in memory."""
    from leanpipe.models.count import expected_config
    from leanpipe.training.trainer.memory import size_of

    parameters = size_of(expected_config(inputs["model"])).parameters
    parts = {"process": process_bytes(kind), "weights": round(0.75 * len(CANDIDATES) * parameters)}
    peak = sum(parts.values())
    work = 2.0 * parameters * config.tokens * config.repeats * len(CANDIDATES)
    return Estimate(peak, host_bytes(kind, peak), round(1.1 * parameters), work, parts)


@stage(
    version=1,
    uses_device=True,
    depends_on=SPEED,
    estimate=estimate_kernel_speed,
    reads={"model": NOTHING},
)
def kernel_speed(config: KernelSpeedConfig, inputs: KernelSpeedInputs, out: Path, report: Report) -> Summary:
    """Measure how many tokens a second llama.cpp writes with all of a model's weights in each type."""
    from leanpipe.engines.llama_cpp import LlamaCpp, free_cores
    from leanpipe.models.count import empty_model, read_config
    from leanpipe.models.load import load_tokenizer

    model, tokenizer = empty_model(read_config(inputs.model)), load_tokenizer(inputs.model)
    threads, context = free_cores(), len(_PROMPT) + config.tokens + 1
    engines = {}
    with TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as folder:
        for kind in CANDIDATES:
            file = Path(folder) / f"{kind}.gguf"
            write_zeros(model, tokenizer, GgufTypes(kind, kind), file)
            engines[kind] = LlamaCpp(file, context, threads=threads)
            file.unlink()
    seen: dict[str, list[float]] = {kind: [] for kind in CANDIDATES}
    for turn in range(config.repeats + 1):
        report.progress(turn, config.repeats + 1, "turns")
        for kind, engine in engines.items():
            seen[kind].append(_seconds_per_token(engine, config.tokens))
    seconds = {kind: statistics.median(times[1:]) for kind, times in seen.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / FILE, json.dumps(seconds, indent=1))
    figures = {f"{kind}_tokens_per_second": 1 / value for kind, value in seconds.items()}
    report.metrics(figures)
    return figures | {"threads": threads}


def _seconds_per_token(engine, tokens: int) -> float:
    asked = {
        "prompt": list(_PROMPT),
        "n_predict": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    return engine.complete(asked)["timings"]["predicted_per_token_ms"] / 1e3


def read_speeds(folder: Path) -> dict[str, float]:
    """Read the result of the stage: seconds per token with all weights in each type."""
    return json.loads((folder / FILE).read_text())


def seconds_of(group: WeightGroup, kind: str, speeds: Mapping[str, float], total: Mapping[str, int]) -> float:
    """Seconds of a token that a group takes in a type: its share of the bytes of that type's file, of that file's seconds."""
    return speeds[kind] * group.bytes(kind) / total[kind]


def bytes_of_all(groups: list[WeightGroup]) -> dict[str, int]:
    """Bytes of all groups in each type."""
    return {kind: sum(group.bytes(kind) for group in groups) for kind in CANDIDATES}
