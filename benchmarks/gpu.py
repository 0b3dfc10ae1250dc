"""`python -m benchmarks.gpu`: training on the card, ours against transformers' own Trainer on the same model and text.

The model has SmolLM2-135M's shape and new weights, the text is random tokens in blocks of four documents, which ours keeps
apart and the peer does not, for only time and memory are measured: tokens per second of the training steps, and the share of
the measured matrix product peak that they reach. Both run bf16 with the same blocks per step; ours finds how many
are in memory at once.
"""

import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import torch

from benchmarks.report import claim, write

LENGTH, BATCH, STEPS, WARM = 1024, int(os.environ.get("BATCH", 64)), 24, 4
REPEATS = int(os.environ.get("REPEATS", 2))


def main() -> None:
    assert torch.cuda.is_available(), "this benchmark needs a CUDA GPU"
    print(torch.cuda.get_device_name(), torch.__version__, f"{BATCH} blocks of {LENGTH} tokens a step")
    found: dict[str, list[dict[str, float]]] = {"ours": [], "ours, compiled": [], "peer": []}
    for _ in range(REPEATS):
        for name, results in found.items():
            results.append(RUNS[name]())
            print(f"{name:<16}", {key: round(value, 3) for key, value in results[-1].items()}, flush=True)
    best = {name: max(results, key=lambda one: one["speed"]) for name, results in found.items()}
    rows = []
    for name in ("ours", "ours, compiled"):
        own, peer = best[name], best["peer"]
        rows.append(claim(f"{name}: tokens/s, against Trainer", own["speed"], peer["speed"], "tok/s", 1))
        rows.append(
            claim(
                f"{name}: peak memory, against Trainer", own["memory"], peer["memory"], "GB", 1, at_most=True
            )
        )
    rows.append(claim("share of the measured peak", best["ours, compiled"]["mfu"], 1, "", 0.4))
    write("gpu", rows)


def model() -> Any:
    from transformers import LlamaForCausalLM

    from leanpipe.planning.references import describe_model

    torch.manual_seed(0)
    return LlamaForCausalLM(describe_model("smollm2-135m-instruct")).cuda()


def blocks(count: int, packed: bool = False) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 49_152, (count, LENGTH), generator=generator)
    found = []
    for one in tokens:
        cuts = torch.randint(1, LENGTH, (3,), generator=generator).unique().tolist()
        positions = torch.cat([torch.arange(b - a) for a, b in pairwise([0, *cuts, LENGTH])])
        found.append({"input_ids": one, "labels": one, **({"position_ids": positions} if packed else {})})
    return found


def ours(compiled: bool = False) -> dict[str, float]:
    from leanpipe.training.losses.objectives import CrossEntropy
    from leanpipe.training.trainer.config import TrainingConfig
    from leanpipe.training.trainer.data import TrainingData
    from leanpipe.training.trainer.trainer import train

    config = TrainingConfig(
        tokens=STEPS * BATCH * LENGTH,
        batch=BATCH,
        precision="bf16",
        validations=2,
        log_every_steps=WARM,
        checkpoint_every_steps=10**6,
        compile=compiled,
    )
    torch.cuda.reset_peak_memory_stats()
    text = TrainingData(blocks(STEPS * BATCH, packed=True), blocks(1, packed=True))
    reports = Reports()
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(model(), CrossEntropy(), text, config, Path(folder), reports)
    return {
        "speed": reports.median("tokens_per_second"),
        "mfu": reports.median("mfu"),
        "micro_batch": outcome.micro_batch,
        "memory": torch.cuda.max_memory_allocated() / 1e9,
    }


class Reports:
    """A report that remembers its figures."""

    def __init__(self) -> None:
        self._figures: list[dict[str, float]] = []

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self._figures.append(dict(values))

    def progress(self, done: float, total: float, what: str) -> None:
        pass

    def median(self, name: str) -> float:
        """Without the first steps, in which kernels are chosen and compiled."""
        found = [figures[name] for figures in self._figures if name in figures]
        return statistics.median(found[2:])


def peer() -> dict[str, float]:
    """Its largest micro-batch that fits, found by halving."""
    micro = BATCH
    while True:
        try:
            return _peer(micro) | {"micro_batch": micro}
        except torch.OutOfMemoryError:
            micro //= 2
            torch.cuda.empty_cache()


def _peer(micro: int) -> dict[str, float]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            times.append(time.perf_counter())

    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=BATCH // micro,
            bf16=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=10**6,
        )
        Trainer(model(), arguments, train_dataset=blocks(STEPS * BATCH), callbacks=[Clock()]).train()
    seconds = times[-1] - times[WARM - 1]
    speed = (STEPS - WARM) * BATCH * LENGTH / seconds
    return {"speed": speed, "memory": torch.cuda.max_memory_allocated() / 1e9}


RUNS = {"ours": ours, "ours, compiled": lambda: ours(compiled=True), "peer": peer}

if __name__ == "__main__":
    main()
