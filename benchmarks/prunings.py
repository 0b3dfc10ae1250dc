"""`python -m benchmarks.prunings [ROW...]`: what each way to a smaller model saves and costs, after the same recovery, in one table.

The teacher of the default run without the tokens that its corpus does not use is cut to fewer layers, or fewer channels, or
factors of low rank, all to the same number of parameters, or half of its connections become zero, or its weights 8 or 4 bits.
Each is measured as it is and after the same distillation, on the same test text, by the engine that runs it. Then it is
computed which of them another one dominates: with as few bytes and bits, and as fast.

`LEANPIPE_BENCH_TOKENS` (8,192) is the recovery's length, `LEANPIPE_BENCH_SIZE` (0.75) the share of parameters. The material is
the default run's, made by its own stages in LEANPIPE_HOME (as benchmarks.student has it). Speeds need a quiet machine:
`--without-speed` leaves them out, of what dominates too.
"""

import argparse
import os
from collections.abc import Mapping
from typing import Any

from benchmarks.report import FOLDER, write
from benchmarks.student import HOME, Material, settings
from flows import distill
from flows.shrink import prepare, student_of
from leanpipe.assets.resolve import resolve_corpus, resolve_instructions, resolve_model
from leanpipe.compression.quantize import QuantizeConfig, quantize
from leanpipe.core.home import Home
from leanpipe.core.markdown import table
from leanpipe.core.stage import Summary
from leanpipe.evaluation.evaluate import EvaluateConfig, evaluate
from leanpipe.evaluation.pareto import dominated_by
from leanpipe.models.count import parameters_of, read_config
from leanpipe.planning.steps import RunInputs
from leanpipe.settings.flows import DistillSettings
from leanpipe.settings.overrides import merged, validated

TOKENS = int(os.environ.get("LEANPIPE_BENCH_TOKENS", 8_192))
SIZE = float(os.environ.get("LEANPIPE_BENCH_SIZE", 0.75))

Overrides = dict[str, dict[str, Any]]


def ways(parameters: int, layers: int, channels: int) -> Mapping[str, tuple[Overrides, str]]:
    """By name what is set for it, and the format that it is then written in, if any."""
    whole: Overrides = {"shrink": {"size": 1.0}}
    half = {"sparsity": 0.5}
    factors = {"parameters": parameters}
    return {
        "vocabulary": (whole, ""),
        "layers": ({"shrink": {"parameters": parameters, "mlp_channels": channels}}, ""),
        "channels": ({"shrink": {"parameters": parameters, "layers": layers}}, ""),
        "zeros, magnitude": (whole | {"prune": half | {"method": "magnitude"}}, ""),
        "zeros, wanda": (whole | {"prune": half}, ""),
        "zeros, wanda 2:4": (whole | {"prune": half | {"pattern": "2:4"}}, ""),
        "low rank, factors": (whole | {"low_rank": factors}, ""),
        "low rank, dense": (whole | {"low_rank": factors | {"saved": "dense"}}, ""),
        "q8_0": (whole, "q8_0"),
        "q4_0": (whole, "q4_0"),
    }


class Measured:
    """Makes models by the stages of the flows, and measures them on the test text of the default run."""

    def __init__(self, speed: bool) -> None:
        self._speed = {} if speed else {"repeats": 1, "decode_tokens": 2, "prefill_tokens": 16}
        self.run, home = Material(settings()), Home(HOME)
        default = self.run.config
        self.given = RunInputs(
            corpus=resolve_corpus(default.corpus, home),
            models=(resolve_model(default.teacher, home, self.run._run),),
            instructions=resolve_instructions(default.instructions, home),
        )
        self.prepared = prepare(self.run, default, self.given)

    def both(self, overrides: Overrides, form: str) -> tuple[Summary, Summary]:
        """The figures of a model before and after its recovery."""
        values = DistillSettings().model_dump(mode="json")
        for section, chosen in ({"distill": {"tokens": TOKENS}} | overrides).items():
            values = merged(values, {section: chosen})
        config = validated(DistillSettings, values)
        before = student_of(self.run, config, self.prepared)
        after = distill.stages(self.run, config, self.given).student
        return self.figures(before, form), self.figures(after, form)

    def figures(self, model: Any, form: str = "") -> Summary:
        """The figures of one model, in a format."""
        if form:
            model = self.run.stage(quantize, QuantizeConfig(formats=(form,)), model=model).inside(form)
        config = EvaluateConfig(conversations=0, max_new_tokens=2, **self._speed)
        return self.run.stage(evaluate, config, model=model, documents=self.prepared.documents).summary


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("ways", nargs="*")
    parser.add_argument("--without-speed", action="store_true")
    asked = parser.parse_args()
    measured = Measured(not asked.without_speed)
    whole = read_config(measured.given.model.path)
    parameters = int(SIZE * parameters_of(whole))
    possible = ways(parameters, whole.num_hidden_layers, whole.intermediate_size)
    teacher = measured.figures(measured.given.model)
    before, after = {"teacher": teacher}, {"teacher": teacher}
    for name, (overrides, form) in possible.items():
        if asked.ways and name not in asked.ways:
            continue
        before[name], after[name] = measured.both(overrides, form)
        print(
            f"{name}: {before[name]['bits_per_byte']:.4f} -> {after[name]['bits_per_byte']:.4f}", flush=True
        )
    print(told(before, after, not asked.without_speed))
    write("prunings", rows_of(before, after, not asked.without_speed))
    print(f"written to {FOLDER / 'prunings.json'}")


def rows_of(
    before: Mapping[str, Summary], after: Mapping[str, Summary], speed: bool = True
) -> list[dict[str, Any]]:
    """One row for each model, with what dominates it after its recovery."""
    better = dominated_by(after, speed)
    return [
        {
            "model": name,
            "MB": found["size_bytes"] / 1e6,
            "parameters": found["parameters"],
            "bits/byte before": before[name]["bits_per_byte"],
            "bits/byte after": found["bits_per_byte"],
            "decode tok/s": found["decode_tokens_per_second"],
            "dominated by": better[name],
        }
        for name, found in after.items()
    ]


def told(before: Mapping[str, Summary], after: Mapping[str, Summary], speed: bool = True) -> str:
    """The rows as a table."""
    rows = rows_of(before, after, speed)
    cells = [
        (
            row["model"],
            f"{row['MB']:.1f}",
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['bits/byte before']:.3f}",
            f"{row['bits/byte after']:.3f}",
            f"{row['decode tok/s']:.1f}" if speed else "",
            row["dominated by"],
        )
        for row in rows
    ]
    header = ("model", "MB", "parameters, M", "bits/byte before", "after", "decode tok/s", "dominated by")
    return table(header, cells, "lrrrrrl")


if __name__ == "__main__":
    main()
