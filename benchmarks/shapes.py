"""`python -m benchmarks.shapes [cost]`: what a quarter fewer parameters cost, and what a search over shapes costs and finds.

SmolLM2-135M-Instruct without a quarter of its parameters outside embeddings learns from its cached predictions, for each of
three seeds; beside it the same shape from the teacher's parts but taught by the text alone, and with new weights. The goals:
at most 8 % more bits per byte of held-out text than the teacher, lower than both peers in every seed, and decoding at least
1.2 times as fast as the teacher. Then `search_shapes` at 60 % of the parameters, which may take twice as long as one
distillation of the default length, and its winner beside the shape that `shrink` chooses by itself, after that length. `cost` only
counts what the search takes, in products with weights, and runs nothing.

`LEANPIPE_BENCH_TOKENS` (400,000) and `LEANPIPE_BENCH_REPEATS` (3 seeds) make it shorter. Speeds need a quiet machine.
"""

import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks.distillation import held_out_loss, material, shrunk
from benchmarks.report import claim, write

TOKENS = int(os.environ.get("LEANPIPE_BENCH_TOKENS", 400_000))
SEEDS = range(int(os.environ.get("LEANPIPE_BENCH_REPEATS", 3)))
KEPT = 0.75
TEXT: dict[str, Any] = {"kl_weight": 0.0}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "distilled": ({}, {}),
    "the teacher's parts, text alone": ({}, TEXT),
    "from scratch": ({"initialization": "random"}, TEXT),
}
"""By name how the student is shaped, and how it learns."""


def main() -> None:
    if sys.argv[1:] == ["cost"]:
        cost()
        return
    teacher, blocks = material()
    with tempfile.TemporaryDirectory() as folder:
        rows = quarter(teacher, blocks, Path(folder)) + search(teacher, blocks, Path(folder))
    write("shapes", rows)


def cost() -> None:
    """How many default distillations a search by the default settings takes, of the teacher as it is: counted, not run."""
    from leanpipe.models.count import read_config
    from leanpipe.shrink.search.candidates import enumerate_shapes
    from leanpipe.shrink.search.search_cost import distillation_work, search_work
    from leanpipe.shrink.search.search_shapes import SearchConfig

    config, teacher = SearchConfig(), read_config(material()[0])
    shapes = enumerate_shapes(teacher, config, config.depths, config.kv_groups)
    work = search_work(config, teacher, shapes), distillation_work(teacher, shapes)
    claim("search, against one distillation, counted", *work, "FLOP", config.max_cost, at_most=True)


def quarter(teacher: Path, blocks: Path, folder: Path) -> list[dict[str, Any]]:
    """A quarter fewer parameters outside embeddings."""
    most, cached = budget(teacher), ask(teacher, blocks, folder / "cache", TOKENS)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in SEEDS:
        for way, (shape, learning) in WAYS.items():
            student = shrunk(
                {"parameters": most, "seed": seed} | shape, teacher, blocks, folder / f"{way}-{seed}"
            )
            config = {"tokens": TOKENS, "seed": seed} | learning
            found[way].append(learned(config, teacher, blocks, cached, student)["bits_per_byte"])
            print(f"seed {seed}, {way}: {found[way][-1]:.4f} bits/byte", flush=True)
    ours, whole = found["distilled"], teacher_bits(teacher, blocks)
    rows = [
        claim("a quarter less, against the teacher", statistics.mean(ours), whole, "bits", 1.08, at_most=True)
    ]
    for way in list(WAYS)[1:]:
        worst = max(SEEDS, key=lambda seed: ours[seed] / found[way][seed])
        rows.append(claim(f"{way}, worst seed", ours[worst], found[way][worst], "bits", 1.0, at_most=True))
    return [*rows, speed(teacher, folder / "distilled-0")]


def budget(teacher: Path) -> int:
    """The parameters of a student without a quarter of those outside embeddings."""
    from leanpipe.models.count import empty_model, parameters_of, read_config

    config = read_config(teacher)
    embeddings = empty_model(config).get_input_embeddings().weight.numel()
    return int(embeddings + KEPT * (parameters_of(config) - embeddings))


def ask(teacher: Path, blocks: Path, out: Path, tokens: int) -> Path:
    from leanpipe.core.estimate import Expected
    from leanpipe.core.report import Silent
    from leanpipe.training.distill.teacher_cache import (
        CacheInputs,
        CacheSettings,
        cache_config,
        cache_teacher,
    )

    out.mkdir()
    config = cache_config(CacheSettings(), Expected(blocks), tokens)
    cache_teacher.function(config, CacheInputs(teacher, blocks), out, Silent())
    return out


def learned(
    config: dict[str, Any], teacher: Path, blocks: Path, cached: Path, student: Path
) -> dict[str, Any]:
    """The figures of a distillation, and its seconds."""
    from leanpipe.core.report import Silent
    from leanpipe.training.distill.distill import DistillConfig, DistillInputs, distill

    with tempfile.TemporaryDirectory() as folder:
        inputs = DistillInputs(teacher, blocks, cached, student)
        started = time.perf_counter()
        summary = distill.function(DistillConfig(**config), inputs, Path(folder), Silent())
        return summary | {"seconds": time.perf_counter() - started}


def teacher_bits(teacher: Path, blocks: Path) -> float:
    """Bits per byte of the teacher on what its students are validated on."""
    from leanpipe.models.load import load_model, load_tokenizer
    from leanpipe.tokens.blocks import Blocks
    from leanpipe.training.distill.distill import DistillConfig
    from leanpipe.training.trainer.data import evenly_spaced_blocks, scored_bytes, scored_tokens

    held_out = evenly_spaced_blocks(Blocks(blocks, "validation"), DistillConfig().validation_tokens)
    nats = held_out_loss(load_model(teacher), held_out) * scored_tokens(held_out)
    return nats / math.log(2) / scored_bytes(held_out, load_tokenizer(blocks / "tokenizer"))


def speed(teacher: Path, student: Path) -> dict[str, Any]:
    """Tokens per second of both in turns, each the median of five."""
    from leanpipe.models.load import load_model
    from leanpipe.shrink.search.candidates import decode_seconds

    both = [load_model(student), load_model(teacher)]
    taken = [[decode_seconds(model) for model in both] for _ in range(5)]
    ours, peer = (1 / statistics.median(each) for each in zip(*taken, strict=True))
    return claim("a quarter less, decoding", ours, peer, "tok/s", 1.2)


def search(teacher: Path, blocks: Path, folder: Path) -> list[dict[str, Any]]:
    """The time of a search, and its winner beside the default's shape."""
    from leanpipe.core.report import Silent
    from leanpipe.settings.yaml_text import read_yaml
    from leanpipe.shrink.search.search_shapes import SearchConfig, SearchInputs, search_shapes
    from leanpipe.training.distill.distill import DistillConfig

    tokens = min(DistillConfig().tokens, TOKENS)
    cached, out = ask(teacher, blocks, folder / "default-cache", tokens), folder / "search"
    out.mkdir()
    config = {"tokens": tokens}
    plain = learned(config, teacher, blocks, cached, shrunk({}, teacher, blocks, folder / "default"))
    started = time.perf_counter()
    settings = SearchConfig(tokens=min(SearchConfig().tokens, TOKENS))
    search_shapes.function(settings, SearchInputs(teacher, blocks, cached), out, Silent())
    seconds = time.perf_counter() - started
    print((out / "report" / "shapes.md").read_text())
    shape = read_yaml((out / "shape.yaml").read_text())["shrink"]
    best = learned(config, teacher, blocks, cached, shrunk(shape, teacher, blocks, folder / "best"))
    return [
        claim("search, against one distillation", seconds, plain["seconds"], "s", 2.0, at_most=True),
        claim(
            "its shape, against the default's",
            best["bits_per_byte"],
            plain["bits_per_byte"],
            "bits",
            1.0,
            at_most=True,
        ),
    ]


if __name__ == "__main__":
    main()
