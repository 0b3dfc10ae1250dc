"""Two processes that train together: real ones, over gloo."""

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from leanpipe.core import device
from leanpipe.core.report import MultiReport, Silent
from leanpipe.core.store import Artifact, Store, external
from leanpipe.corpus.document import Document
from leanpipe.models.student import SHAPE
from leanpipe.processes.launcher import RankDied
from leanpipe.processes.run_stage import run_stage
from leanpipe.training.distill.distill import DistillConfig, distill
from leanpipe.training.finetune.finetune import FinetuneConfig, finetune
from tests.support.cleaned_corpus import write_documents
from tests.support.tiny_models import tiny_model
from tests.training.blocks import Recorder, write_blocks

LENGTH = 32
TRAINING = {
    "tokens": 6 * 4 * LENGTH,
    "batch": 4,
    "micro_batch": 1,
    "precision": "fp32",
    "log_every_steps": 1,
    "validations": 3,
    "checkpoint_every_steps": 2,
}

pytestmark = pytest.mark.skipif(
    device.name() == "cuda" and device.count() < 2, reason="there is one GPU for two processes"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Artifact:
    return external("model", tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def taught(model: Artifact, tmp_path_factory):
    """What `finetune` needs."""
    file = tmp_path_factory.mktemp("inputs") / "instructions.jsonl"
    records = ({"prompt": f"Say {n}", "completion": "so " * n} for n in range(1, 30))
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {"model": model, "instructions": external("told", file)}


@pytest.fixture(scope="module")
def adapted(taught, tmp_path_factory) -> tuple[Artifact, Recorder]:
    """What one process makes of it."""
    report = Recorder()
    return run_stage(finetune, adapters(), taught, Store(tmp_path_factory.mktemp("alone")), report), report


def adapters(**changes) -> FinetuneConfig:
    return FinetuneConfig(**{**TRAINING, "max_length": LENGTH, "validation_share": 0.2, "rank": 4, **changes})


def student(**changes) -> DistillConfig:
    """Of a teacher that is asked at every step. Three blocks of held-out text: one process has a block less."""
    chosen = {"teacher_logprobs": "online", "validation_tokens": 3 * LENGTH, "kl_weight": 0.9}
    return DistillConfig(**{**TRAINING, **chosen, **changes})


def kill(rank: int) -> None:
    workers = [one for one in psutil.Process().children() if "leanpipe.processes.rank_main" in one.cmdline()]
    os.kill(workers[rank].pid, signal.SIGKILL)


class KillOne(Silent):
    """Kills the second of the processes after a step."""

    def progress(self, done: float, total: float, what: str) -> None:
        if done == 3 * 4 * LENGTH:
            kill(1)


class KillAfterwards(Silent):
    """Kills the first of the processes once they have trained, while it merges and saves."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if "general_bits_per_byte_before" in values:
            kill(0)


def assert_the_same(alone: Recorder, together: Recorder) -> None:
    for name in ("loss", "validation_loss", "grad_norm", "learning_rate"):
        for step, value in together.series(name).items():
            assert value == pytest.approx(alone.series(name)[step], rel=1e-4), (name, step)


def trained_steps(result: Artifact) -> list[int]:
    """The steps that were trained, in all attempts: who listens is told of them once more."""
    lines = (result.path / "report" / "metrics.jsonl").read_text().splitlines()
    return [entry["step"] for entry in map(json.loads, lines) if "loss" in entry["values"]]


def from_the_checkpoint_after_step_2(result: Artifact) -> bool:
    """Whether the steps before it were trained once, and those after it to the end."""
    steps = trained_steps(result)
    return steps[:2] == [1, 2] and min(steps[2:]) == 3 and steps[-4:] == [3, 4, 5, 6]


def assert_the_same_files(one: Artifact, two: Artifact) -> None:
    """But for what arithmetic in another order makes of the weights."""
    files = [sorted(path.relative_to(each.path) for path in each.path.rglob("*")) for each in (one, two)]
    assert files[0] == files[1]
    for name in (file for file in files[0] if file.suffix == ".safetensors"):
        weights, others = load_file(one.path / name), load_file(two.path / name)
        assert weights.keys() == others.keys()
        for weight in weights:
            assert weights[weight].float().allclose(others[weight].float(), rtol=1e-2, atol=1e-5), weight


def test_several_processes_train_as_one_does(tmp_path: Path, taught, adapted):
    """The same command with processes=2; one of them is killed on the way, and the stage run again."""
    (one, alone), together = adapted, Recorder()
    with pytest.raises(RankDied, match="process 1 of stage finetune ended with -9"):
        run_stage(finetune, adapters(processes=2), taught, Store(tmp_path), KillOne())
    two = run_stage(finetune, adapters(processes=2), taught, Store(tmp_path), together)
    assert not [one for one in psutil.Process().children() if "leanpipe.processes.rank_main" in one.cmdline()]
    assert from_the_checkpoint_after_step_2(two)
    assert_the_same(alone, together)
    assert two.summary["tokens"] == one.summary["tokens"]
    assert_the_same_files(one, two)
    assert two.peak_memory > 0


def test_processes_train_one_model_in_shards(tmp_path: Path, model: Artifact):
    """sharding=full: every weight, whose embeddings are the output layer too, beside a teacher; killed and run again."""
    blocks = external("blocks", write_blocks(tmp_path / "blocks", LENGTH))
    inputs, store, divided = (
        {"teacher": model, "blocks": blocks},
        Store(tmp_path),
        student(processes=2, sharding="full"),
    )
    alone, together = Recorder(), Recorder()
    one = run_stage(distill, student(), inputs, store, alone)
    with pytest.raises(RankDied, match="process 1 of stage distill ended with -9"):
        run_stage(distill, divided, inputs, store, KillOne())
    partial = store.partial("distill", distill.key(divided, inputs))
    parts = (partial / "checkpoints" / "checkpoint-2" / "parts").glob("*.distcp")
    sizes = [part.stat().st_size for part in parts]
    assert len(sizes) == 2 and max(sizes) < 1.1 * min(sizes)  # each process had half of it
    two = run_stage(distill, divided, inputs, store, together)
    assert from_the_checkpoint_after_step_2(two)
    assert_the_same(alone, together)
    assert_the_same_files(one, two)


@pytest.mark.parametrize("sharding", [pytest.param("none", marks=pytest.mark.chaos), "full"])
def test_what_does_not_learn_stays_in_all_processes(tmp_path: Path, model: Artifact, sharding: str):
    blocks, begun = external("blocks", write_blocks(tmp_path / "blocks", LENGTH)), tmp_path / "student"
    shutil.copytree(model.path, begun)
    (begun / SHAPE).write_text(json.dumps({"intact": ["embeddings", "norms", "first_layer"]}))
    inputs = {"teacher": model, "blocks": blocks, "student": external("student", begun)}
    alone, together = Recorder(), Recorder()
    one = run_stage(distill, student(), inputs, Store(tmp_path), alone)
    two = run_stage(distill, student(processes=2, sharding=sharding), inputs, Store(tmp_path), together)
    assert_the_same(alone, together)
    assert_the_same_files(one, two)
    before, after = (load_file(each / "model.safetensors") for each in (begun, two.path))
    changed = {name for name, weight in after.items() if not weight.equal(before[name].to(weight.dtype))}
    assert changed and all("layers.1." in name and "norm" not in name for name in changed)


@pytest.mark.chaos
def test_adapters_are_trained_on_a_base_in_shards(tmp_path: Path, taught, adapted):
    """And not again, if all is killed between training and saving."""
    (one, alone), together, afterwards = adapted, Recorder(), Recorder()
    texts = tmp_path / "documents"
    write_documents(
        texts / "validation" / "00000.parquet", [Document("a", "Lists hold what is put there.", "b")]
    )
    inputs, divided = (
        {**taught, "documents": external("documents", texts)},
        adapters(processes=2, sharding="full"),
    )
    with pytest.raises(RankDied, match="process 0 of stage finetune ended with -9"):
        run_stage(finetune, divided, inputs, Store(tmp_path), MultiReport([together, KillAfterwards()]))
    assert list(together.series("loss")) == [1, 2, 3, 4, 5, 6]
    two = run_stage(finetune, divided, inputs, Store(tmp_path), afterwards)
    assert afterwards.done == [(6 * 4 * LENGTH, 6 * 4 * LENGTH, "tokens")] and trained_steps(two) == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert_the_same(alone, together)
    assert_the_same_files(one, two)


@pytest.mark.chaos
def test_shards_go_back_to_the_weights_that_they_began_with(tmp_path: Path, model: Artifact):
    """With a learning rate that makes every validation worse, the best weights are the first, whoever trains them."""
    blocks = external("blocks", write_blocks(tmp_path / "blocks", LENGTH))
    inputs, store = {"teacher": model, "blocks": blocks}, Store(tmp_path)
    hopeless = {"learning_rate": 1.0, "patience": 1, "validations": 4, "spike": 0}
    one, two = (
        run_stage(distill, student(**hopeless, **how), inputs, store, Silent())
        for how in ({}, {"processes": 2, "sharding": "full"})
    )
    assert_the_same_files(one, two)
    given = load_file(model.path / "model.safetensors")
    for name, weight in load_file(two.path / "model.safetensors").items():
        assert weight.equal(given[name].to(weight.dtype)), name
    for each in (one, two):
        assert each.summary["bits_per_byte"] == pytest.approx(each.summary["initial_bits_per_byte"], rel=1e-4)
