"""`python -m benchmarks.distillation`: a student from a teacher's cached predictions, against plain online distillation.

SmolLM2-135M-Instruct teaches a student of 57M parameters and one of a tenth, on web pages and Wikipedia: the same blocks in
the same order, the same batches, optimiser, learning rates, and arithmetic. The peer is transformers' Trainer with a
`compute_loss` that runs the teacher at every step and takes the KL of all logits, as tutorials have it; validation and
checkpoints are off its clock and ours. Each training is a process of its own, in turns, and tells its memory's peak. The
limit is what a teacher forward and a plain student step take, over what the student step takes, bare and in the same run.

Figures are CPU seconds of one thread where the machine is shared (`LEANPIPE_BENCH_CLOCK=cpu`), else seconds of the wall.
A process's own peak counts what importing torch takes, 0.5 GB, on both sides.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Freed blocks stay with the process, as in `leanpipe/processes/fork_client.py`: for the peer too.
os.environ |= {"HF_HUB_OFFLINE": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

from benchmarks.report import claim, write

HOME = Path(__file__).parent / ".distillation"
TOKENS = int(os.environ.get("LEANPIPE_BENCH_TOKENS", 16_384))
REPEATS = int(os.environ.get("LEANPIPE_BENCH_REPEATS", 3))
CLOCK: Callable[[], float] = (
    time.process_time if os.environ.get("LEANPIPE_BENCH_CLOCK") == "cpu" else time.perf_counter
)
BATCH = 4
KL_WEIGHT = 0.9
RATE = 3.5e-4
STUDENTS: dict[str, dict[str, float]] = {"57M": {"size": 0.42}, "a tenth": {"size": 0.1, "width": 1 / 3}}
EPOCHS = 3


def main() -> None:
    teacher, blocks = material()
    rows = []
    for name in STUDENTS:
        runs: dict[str, list[dict[str, float]]] = {"cache": [], "ours": [], "peer": [], "limit": []}
        for _ in range(REPEATS):
            with tempfile.TemporaryDirectory() as folder:
                for what, found in runs.items():
                    found.append(apart(what, name, str(teacher), str(blocks), folder))
                    print(name, what, found[-1], flush=True)
        rows += claims(name, {what: median(found) for what, found in runs.items()})
    write("distillation", rows)


def claims(name: str, runs: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    ours, peer, cache, limit = (runs[what] for what in ("ours", "peer", "cache", "limit"))
    speed = (TOKENS / ours["seconds"], TOKENS / peer["seconds"])
    most = (limit["teacher"] + limit["student"]) / limit["student"]
    with_cache = EPOCHS * TOKENS / (EPOCHS * ours["seconds"] + cache["seconds"])
    return [
        claim(f"{name}, cached against online", *speed, "tok/s", 0.9 * most),
        claim(f"{name}, that over the limit", speed[0] / speed[1], most, "times", 0.9),
        claim(f"{name}, {EPOCHS} epochs with making the cache", with_cache, speed[1], "tok/s", 1.3),
        claim(f"{name}, held-out loss", ours["loss"], peer["loss"], "nats", 1.01, at_most=True),
        claim(f"{name}, peak memory", ours["memory"] / 1e9, peer["memory"] / 1e9, "GB", 0.5, at_most=True),
        claim(f"{name}, bytes per token", cache["bytes_per_token"], 1, "bytes", 160, at_most=True),
    ]


def median(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def apart(what: str, *arguments: str) -> dict[str, float]:
    """What a run says of itself, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.distillation", what, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def material() -> tuple[Path, Path]:
    """The teacher and the blocks, made by leanpipe's own stages and kept."""
    from leanpipe.assets.resolve import resolve_corpus, resolve_model
    from leanpipe.core.home import Home
    from leanpipe.core.report import Silent
    from leanpipe.core.stage import Inputs, Stage
    from leanpipe.core.store import Artifact, Store
    from leanpipe.corpus.clean import CleanConfig, clean
    from leanpipe.processes.run_stage import run_stage
    from leanpipe.tokens.tokenize import TokenizeConfig, tokenize

    home = Home(HOME)

    def run(stage: Stage, config: Any, inputs: Inputs) -> Artifact:
        return run_stage(stage, config, inputs, Store(home.store), Silent())

    teacher = resolve_model("smollm2-135m-instruct", home, run)
    documents = run(clean, CleanConfig(), {"corpus": resolve_corpus(("sample",), home)})
    return teacher.path, run(tokenize, TokenizeConfig(), {"documents": documents, "teacher": teacher}).path


def settings(name: str) -> Any:
    from leanpipe.training.distill.distill import DistillConfig

    shared = {
        "tokens": TOKENS,
        "learning_rate": RATE,
        "batch": BATCH,
        "micro_batch": BATCH,
        "kl_weight": KL_WEIGHT,
        "validations": 2,
    }
    return DistillConfig(**shared)


def shrunk(shape: dict[str, Any], teacher: Path, blocks: Path, out: Path) -> Path:
    """The student before it learns, made once."""
    from leanpipe.core.report import Silent
    from leanpipe.shrink.shrink import ShrinkConfig, ShrinkInputs, shrink

    if not out.exists():
        out.mkdir(parents=True)
        shrink.function(ShrinkConfig(**shape), ShrinkInputs(teacher, blocks), out, Silent())
    return out


def cache(name: str, teacher: Path, blocks: Path, folder: Path) -> dict[str, float]:
    from leanpipe.core import device
    from leanpipe.core.report import Silent
    from leanpipe.training.distill.teacher_cache import (
        CacheInputs,
        CacheSettings,
        cache_config,
        cache_teacher,
    )

    (folder / "teacher_logprobs").mkdir(exist_ok=True)
    from leanpipe.core.estimate import Expected

    shrunk(STUDENTS[name], teacher, blocks, folder / "shrunk")  # off everybody's clock and memory
    config = cache_config(CacheSettings(), Expected(blocks), TOKENS)
    inputs = CacheInputs(teacher, blocks)
    summary, seconds = timed(
        lambda: cache_teacher.function(config, inputs, folder / "teacher_logprobs", Silent())
    )
    return {
        "seconds": seconds,
        "bytes_per_token": summary["bytes_per_token"],
        "memory": device.peak_memory(),
    }


def ours(name: str, teacher: Path, blocks: Path, folder: Path) -> dict[str, float]:
    """The stage, as a flow runs it; its clock is the trainer's."""
    from leanpipe.core import device
    from leanpipe.training.distill.distill import DistillInputs, distill

    (folder / "student").mkdir(exist_ok=True)
    steps = Steps()
    student = shrunk(STUDENTS[name], teacher, blocks, folder / "shrunk")
    inputs = DistillInputs(teacher, blocks, folder / "teacher_logprobs", student)
    distill.function(settings(name), inputs, folder / "student", steps)
    return {"seconds": steps.seconds, "loss": steps.loss, "memory": device.peak_memory()}


def peer(name: str, teacher: Path, blocks: Path, folder: Path) -> dict[str, float]:
    """The same student, text, order and settings in transformers' Trainer, with the teacher at every step."""
    import torch
    from transformers import Trainer, TrainerCallback

    from leanpipe.core import device
    from leanpipe.models.load import load_model
    from leanpipe.tokens.blocks import Blocks
    from leanpipe.training.trainer.data import ShuffledEpochs, Subset, collate, evenly_spaced_blocks
    from leanpipe.training.trainer.trainer import steps_of

    config = settings(name)
    chosen = Subset(Blocks(blocks, "train"), config.tokens)
    asked = load_model(teacher)
    student = load_model(shrunk(STUDENTS[name], teacher, blocks, folder / "shrunk"), torch.float32)
    steps = steps_of(config, 256)

    class Online(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs.pop("labels")[:, 1:]
            logits = model(**inputs, use_cache=False).logits[:, :-1].float()
            with torch.no_grad():
                taught = asked(**inputs, use_cache=False).logits[:, :-1].float()
            scored = labels != -100
            kl = torch.nn.functional.kl_div(
                torch.log_softmax(logits, -1),
                torch.log_softmax(taught, -1),
                reduction="none",
                log_target=True,
            )
            away = kl.sum(-1)[scored].mean()
            text = torch.nn.functional.cross_entropy(logits[scored], labels[scored])
            return KL_WEIGHT * away + (1 - KL_WEIGHT) * text

    trainer = Online(
        model=student,
        args=peer_arguments(config, steps, folder / "peer"),
        data_collator=collate,
        train_dataset=ShuffledEpochs(chosen, steps * config.batch, config.seed),
    )
    clock = Steps()

    class Ends(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.progress(0, 0, "")

    trainer.add_callback(Ends())
    trainer.train()
    held_out = evenly_spaced_blocks(Blocks(blocks, "validation"), config.validation_tokens)
    memory = device.peak_memory()
    return {"seconds": clock.seconds, "loss": held_out_loss(student, held_out), "memory": memory}


def peer_arguments(config: Any, steps: int, folder: Path) -> Any:
    from transformers import TrainingArguments

    from leanpipe.core import device

    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * steps),
        adam_beta2=0.95,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.arithmetic == "bf16",
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=5,
        use_cpu=device.name() == "cpu",
        disable_tqdm=True,
        report_to="none",
    )


def limit(name: str, teacher: Path, blocks: Path, folder: Path) -> dict[str, float]:
    """Seconds of a forward of the teacher and of a plain training step of the student on one batch, bare."""
    import torch

    from leanpipe.core import device
    from leanpipe.models.load import load_model
    from leanpipe.tokens.blocks import Blocks
    from leanpipe.training.trainer.data import Subset, collate

    config = settings(name)
    chosen = Subset(Blocks(blocks, "train"), config.tokens)
    asked = load_model(teacher)
    student = load_model(shrunk(STUDENTS[name], teacher, blocks, folder / "shrunk"), torch.float32).train()
    batch = {
        name: each.to(device.name()) for name, each in collate([chosen[i] for i in range(BATCH)]).items()
    }
    labels = batch.pop("labels")
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6, fused=True)

    def forward() -> None:
        with torch.inference_mode():
            asked(**batch, use_cache=False)

    def step() -> None:
        with torch.autocast(device.name(), torch.bfloat16, enabled=config.arithmetic == "bf16"):
            loss = student(**batch, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    taken = []
    for _ in range(5):
        taken.append((timed(forward)[1], timed(step)[1]))
    forwards, steps = zip(*taken[1:], strict=True)
    return {"teacher": statistics.median(forwards), "student": statistics.median(steps)}


def held_out_loss(model: Any, blocks: list[Any]) -> float:
    """Nats per scored token, as leanpipe's trainer measures them."""
    import torch

    from leanpipe.training.losses.objectives import CrossEntropy
    from leanpipe.training.trainer.data import collate, scored_tokens

    total = 0.0
    model.eval()
    for start in range(0, len(blocks), BATCH):
        with (
            torch.no_grad(),
            torch.autocast("cpu", torch.bfloat16, enabled=settings("57M").arithmetic == "bf16"),
        ):
            batch = collate(blocks[start : start + BATCH])
            batch = {name: each.to(model.device) for name, each in batch.items()}
            total += float(CrossEntropy()(model, batch)["loss"])
    return total / scored_tokens(blocks)


class Steps:
    """A report that remembers the last validation, and when each step ended."""

    def __init__(self) -> None:
        self.loss, self._ends = 0.0, []  # type: ignore[var-annotated]

    def metrics(self, values: Any, step: int | None = None) -> None:
        self.loss = values.get("validation_loss", self.loss)

    def progress(self, done: float, total: float, what: str) -> None:
        self._ends.append(CLOCK())

    @property
    def seconds(self) -> float:
        """Of all steps, had each taken as long as the median one."""
        taken = [later - earlier for earlier, later in itertools.pairwise(self._ends)]
        return statistics.median(taken) * len(self._ends)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = CLOCK()
    return work(), CLOCK() - started


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        what, student, *paths = sys.argv[1:]
        found = {"cache": cache, "ours": ours, "peer": peer, "limit": limit}[what](student, *map(Path, paths))
        print(json.dumps(found))
