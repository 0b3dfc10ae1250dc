"""`python -m benchmarks.training`: all weights of SmolLM2-135M trained on real text, as a share of the device's arithmetic.

The peak is that of a large matrix product in the same process and on the same threads, measured before and after each
training; the median counts. What training needs is counted as in leanpipe/training/trainer/flops.py: 6 operations for each weight
of a matrix and token, and attention over the tokens of a document that come before. Work of other kinds, and work done twice, counts nothing.
No figure comes from a GPU until it says so: the device is printed.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}

REPEATS = int(os.environ.get("REPEATS", 3))
# Eight steps: the first ones are slower, because memory is asked for.
STEPS, BATCH, LENGTH = int(os.environ.get("STEPS", 8)), 4, 512
GOALS = {"fp32": 0.75, "bf16": 0.55}


def main() -> None:
    import torch

    from benchmarks.finetuning import smollm2
    from benchmarks.report import claim, write
    from leanpipe.core import device

    print(f"device: {device.name()}, threads: {torch.get_num_threads()}")
    model, rows = smollm2(), []
    with tempfile.TemporaryDirectory() as folder:
        reached: dict[str, list[tuple[float, float]]] = {precision: [] for precision in GOALS}
        for repeat in range(REPEATS):
            for precision in GOALS:
                reached[precision].append(trained(model, precision, Path(folder) / f"{precision}-{repeat}"))
    for precision, goal in GOALS.items():
        used, peak = (statistics.median(column) / 1e9 for column in zip(*reached[precision], strict=True))
        rows.append(claim(f"full training, {precision}, of the matrix peak", used, peak, "GFLOP/s", goal))
    write("training", rows)


def trained(path: Path, precision: str, out: Path) -> tuple[float, float]:
    """Operations per second that training used, and those of matrix products around it."""
    import torch

    from leanpipe.core.report import Silent
    from leanpipe.models.load import load_model, load_tokenizer
    from leanpipe.training.losses.objectives import CrossEntropy
    from leanpipe.training.trainer.config import TrainingConfig
    from leanpipe.training.trainer.data import TrainingData
    from leanpipe.training.trainer.flops import flops_per_token
    from leanpipe.training.trainer.trainer import train

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    blocks = text(load_tokenizer(path))
    config = TrainingConfig(
        tokens=STEPS * BATCH * LENGTH, batch=BATCH, precision=precision, validations=2, learning_rate=1e-4
    )
    model = load_model(path, torch.float32)
    before = peak(dtype)
    outcome = train(model, CrossEntropy(), TrainingData(blocks, [blocks[0]]), config, out, Silent())
    used = outcome.tokens_per_second * flops_per_token(model, blocks)
    print(
        f"{precision}: {outcome.tokens_per_second:.1f} tok/s, micro-batch {outcome.micro_batch}", flush=True
    )
    return used, statistics.median([before, peak(dtype)])


def peak(dtype: Any, seconds: float = 1.0) -> float:
    """Median operations per second of a matrix product."""
    import time

    import torch

    from leanpipe.core import device

    size = {"cpu": 2_048, "cuda": 8_192}[device.name()]
    a, b = (torch.randn(size, size, device=device.name()).to(dtype) for _ in range(2))
    taken, until = [device.product_seconds(a, b)], time.perf_counter() + seconds
    while time.perf_counter() < until:
        taken.append(device.product_seconds(a, b))
    return 2 * size**3 / statistics.median(taken[1:] or taken)


def text(tokenizer: Any) -> list[dict[str, Any]]:
    """Python's help topics in blocks, as stage tokenize packs them."""
    import pydoc_data.topics

    from leanpipe.training.finetune.chat import Example
    from leanpipe.training.finetune.packing import pack

    topics = pydoc_data.topics.topics
    examples = [
        Example(ids, ids) for name in sorted(topics) if (ids := tokenizer.encode(topics[name])[:LENGTH])
    ]
    return pack(examples, LENGTH, tokenizer.eos_token_id)[: STEPS * BATCH]


if __name__ == "__main__":
    main()
