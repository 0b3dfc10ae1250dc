"""`python -m benchmarks.students`: what the teacher is worth to a student, after the same number of tokens.

SmolLM2-135M-Instruct's student of the default settings on web pages and Wikipedia, made three ways for each of three
seeds: distilled; with the teacher's layers but taught by the text alone; and with new weights, taught by the text alone.
The text, its order, the batches and the learning rates are the same. The figure is bits per byte of held-out text, after
training, and must be lower than either peer's in every seed. Beside them, without a goal, are the other choices of layers.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks.distillation import material, shrunk
from benchmarks.report import claim, write

TOKENS = int(os.environ.get("LEANPIPE_BENCH_TOKENS", 8_192))
SEEDS = range(int(os.environ.get("LEANPIPE_BENCH_REPEATS", 3)))
TEXT = {"kl_weight": 0.0}
WAYS: dict[str, dict[str, Any]] = {
    "distilled": {},
    "distilled, the teacher asked at every step": {"teacher_logprobs": "online"},
    "the teacher's layers, text alone": TEXT,
    "from scratch": TEXT,
    "distilled, first and last layers": {},
    "distilled, evenly spaced layers": {},
}
SHAPES: dict[str, dict[str, Any]] = {
    "from scratch": {"initialization": "random"},
    "distilled, first and last layers": {"keep": "first_and_last"},
    "distilled, evenly spaced layers": {"keep": "evenly_spaced"},
}
"""What these begin with, where it is not the default."""
PEERS = list(WAYS)[2:4]


def main() -> None:
    teacher, blocks = material()
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        ask(teacher, blocks, Path(folder))
        for seed in SEEDS:
            for way, results in found.items():
                results.append(alone(way, seed, teacher, blocks, Path(folder)))
                print(f"seed {seed}, {way}: {results[-1]:.4f} bits/byte", flush=True)
    rows, ours = [], found["distilled"]
    for way in PEERS:
        worst = max(SEEDS, key=lambda seed: ours[seed] / found[way][seed])
        means = statistics.mean(ours), statistics.mean(found[way])
        rows.append(claim(f"{way}, mean", *means, "bits", 1.0, at_most=True))
        rows.append(claim(f"{way}, worst seed", ours[worst], found[way][worst], "bits", 1.0, at_most=True))
    for way, results in found.items():
        print(f"{way}: {statistics.mean(results):.4f} on average")
    write("students", rows)


def ask(teacher: Path, blocks: Path, out: Path) -> None:
    """Write what the teacher predicts: the same for all seeds."""
    from leanpipe.core.estimate import Expected
    from leanpipe.core.report import Silent
    from leanpipe.training.distill.teacher_cache import (
        CacheInputs,
        CacheSettings,
        cache_config,
        cache_teacher,
    )

    config = cache_config(CacheSettings(), Expected(blocks), TOKENS)
    cache_teacher.function(config, CacheInputs(teacher, blocks), out, Silent())


def alone(way: str, seed: int, *folders: Path) -> float:
    """Bits per byte, by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.students", way, str(seed), *map(str, folders)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def trained(way: str, seed: int, teacher: Path, blocks: Path, teacher_logprobs: Path) -> float:
    from leanpipe.core.report import Silent
    from leanpipe.training.distill.distill import DistillConfig, DistillInputs, distill

    config = DistillConfig(tokens=TOKENS, validations=2, seed=seed, **WAYS[way])
    with tempfile.TemporaryDirectory() as folder:
        student = shrunk(SHAPES.get(way, {}) | {"seed": seed}, teacher, blocks, Path(folder) / "shrunk")
        inputs = DistillInputs(teacher, blocks, teacher_logprobs, student)
        summary = distill.function(config, inputs, Path(folder), Silent())
    return summary["bits_per_byte"]


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        way, seed, *paths = sys.argv[1:]
        print(json.dumps(trained(way, int(seed), *map(Path, paths))))
