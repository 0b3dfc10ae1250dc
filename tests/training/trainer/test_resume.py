"""Stages that are killed while they train, and end as if they had not been: compared to the bit."""

import json
import os
import random
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from leanpipe.core.report import Silent
from leanpipe.core.stage import Inputs, Stage
from leanpipe.core.store import REPORT, Artifact, Store, external
from leanpipe.corpus.document import Document
from leanpipe.processes.fork_client import ForkServer, StageDied
from leanpipe.training.distill.distill import DistillConfig, distill
from leanpipe.training.finetune.finetune import FinetuneConfig, finetune
from leanpipe.training.trainer.config import TrainingConfig
from tests.support.cleaned_corpus import write_documents
from tests.support.tiny_models import tiny_model
from tests.training.blocks import write_blocks

STEPS, LENGTH = 12, 32
TRAINING = {
    "tokens": STEPS * 2 * LENGTH,
    "batch": 2,
    "precision": "fp32",
    "validation_tokens": 64,
    "validations": 3,
    "checkpoint_every_steps": 2,
    "log_every_steps": 3,
    "learning_rate": 5e-3,
}


@dataclass(frozen=True)
class Case:
    stage: Stage
    config: TrainingConfig
    inputs: Inputs


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    fork_server = ForkServer()
    yield fork_server
    fork_server.stop()


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("inputs")
    model = external("model", tiny_model(root / "model"))
    blocks = external("blocks", write_blocks(root / "blocks", LENGTH))
    instructions = root / "instructions.jsonl"
    instructions.write_text(
        "".join(json.dumps({"prompt": f"Say {n}", "completion": f"{n}, and {n}"}) + "\n" for n in range(40))
    )
    told = external("instructions", instructions)
    adapters = FinetuneConfig(**TRAINING, max_length=LENGTH, dropout=0.3, rank=4)
    student = DistillConfig(**TRAINING, optimizer="muon", teacher_logprobs="online")
    return {
        "finetune": Case(finetune, adapters, {"model": model, "instructions": told}),
        "distill": Case(distill, student, {"teacher": model, "blocks": blocks}),
    }


class Killer(Silent):
    """Sends a signal to the process that trains once it has done a step, or the first one after it."""

    def __init__(self, step: int, number: int):
        self._tokens, self._signal = step * 2 * LENGTH, number
        self.seen: list[float] = []
        self._sent = not step

    def progress(self, done: float, total: float, what: str) -> None:
        self.seen.append(done)
        if done >= self._tokens and not self._sent:  # a checkpoint may be of a later step than was meant
            self._sent = True
            send(self._signal)


def send(number: int) -> None:
    """Send a signal to the process that trains."""
    helpers = psutil.Process().children()
    helper = next(one for one in helpers if "leanpipe.processes.fork_server" in one.cmdline())
    os.kill(helper.children()[0].pid, number)


class KillerAfterwards(Silent):
    """Kills the process once it has trained and measured what was forgotten, while it merges and saves."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if "forgotten_bits_per_byte" in values:
            send(signal.SIGKILL)


def finished(fork_server: ForkServer, case: Case, store: Store, kills: list[tuple[int, int]]) -> Artifact:
    """The stage's result after it was sent a signal after each of these steps."""
    for step, number in kills:
        killer = Killer(step, number)
        with pytest.raises(StageDied, match=signal.Signals(number).name):
            fork_server.run(case.stage, case.config, case.inputs, store, killer)
        assert max(killer.seen) >= step * 2 * LENGTH
    return fork_server.run(case.stage, case.config, case.inputs, store, Silent())


def reported(artifact: Artifact) -> list[tuple[int, str, float]]:
    """Every figure that is no timing, in the order of its lines: (step, name, value)."""
    lines = (artifact.path / REPORT / "metrics.jsonl").read_text().splitlines()
    return [
        (entry["step"], name, value)
        for entry in map(json.loads, lines)
        for name, value in entry["values"].items()
        if name not in ("tokens_per_second", "mfu", "peak_memory_bytes")
    ]


def compare(fork_server: ForkServer, case: Case, root: Path, kills: list[tuple[int, int]]) -> None:
    whole = finished(fork_server, case, Store(root / "whole"), [])
    killed = finished(fork_server, case, Store(root / "killed"), kills)
    assert killed.digest == whole.digest  # of all files: weights, adapters, configs
    assert reported(killed) == reported(whole)
    steps = [(step, name) for step, name, _ in reported(killed)]
    assert len(steps) == len(set(steps))
    assert {step for step, name in steps if name == "loss"} == {1, 3, 6, 9, 12}


def test_a_stage_that_is_killed_or_told_to_end_ends_as_if_it_had_not_been(fork_server, cases, tmp_path):
    """SIGKILL between two checkpoints, then SIGTERM; with dropout, in a report's middle."""
    compare(fork_server, cases["finetune"], tmp_path, [(5, signal.SIGKILL), (8, signal.SIGTERM)])


def test_a_stage_that_is_told_to_end_writes_a_checkpoint_of_that_very_step(fork_server, cases, tmp_path):
    case, store = cases["distill"], Store(tmp_path)
    with pytest.raises(StageDied, match="was killed by SIGTERM"):
        fork_server.run(case.stage, case.config, case.inputs, store, Killer(7, signal.SIGTERM))
    partial = store.partial(case.stage.name, case.stage.key(case.config, case.inputs))
    # The signal may arrive while the next step is computed.
    newest = max(int(path.name.split("-")[1]) for path in (partial / "checkpoints").glob("checkpoint-*"))
    assert newest in (7, 8, 9)
    killer = Killer(0, signal.SIGTERM)
    fork_server.run(case.stage, case.config, case.inputs, store, killer)
    assert killer.seen[0] == (newest + 1) * 2 * LENGTH


def test_what_is_killed_after_its_last_step_trains_none_again(fork_server, cases, tmp_path):
    """Nor is a checkpoint published with the result, or left behind."""
    case, texts = cases["finetune"], tmp_path / "documents"
    write_documents(
        texts / "validation" / "00000.parquet", [Document("a", "Lists hold what is put there.", "b")]
    )
    case = replace(case, inputs={**case.inputs, "documents": external("documents", texts)})
    whole, store = finished(fork_server, case, Store(tmp_path / "whole"), []), Store(tmp_path / "killed")
    with pytest.raises(StageDied, match="SIGKILL"):
        fork_server.run(case.stage, case.config, case.inputs, store, KillerAfterwards())
    watcher = Killer(0, signal.SIGKILL)
    killed = fork_server.run(case.stage, case.config, case.inputs, store, watcher)
    assert watcher.seen == [STEPS * 2 * LENGTH]  # one report, that all of it is done
    assert killed.digest == whole.digest  # to the bit
    assert reported(killed) == reported(whole)
    assert not [path for path in store.root.rglob("*") if "checkpoint" in path.name]


@pytest.mark.parametrize(
    ("advice", "to_the_bit"),
    [
        ({"gradient_checkpointing": True, "checkpoint_every_steps": 5, "log_every_steps": 4}, True),
        ({"micro_batch": 1}, False),
    ],
)
def test_what_is_advised_for_want_of_memory_goes_on_from_the_checkpoint(
    fork_server, cases, tmp_path, advice, to_the_bit
):
    """The very arithmetic ends with the very weights; sums in other parts with almost the same."""
    case = cases["distill"]
    whole, store = finished(fork_server, case, Store(tmp_path / "whole"), []), Store(tmp_path / "killed")
    with pytest.raises(StageDied, match="SIGKILL"):
        fork_server.run(case.stage, case.config, case.inputs, store, Killer(5, signal.SIGKILL))
    advised, watcher = case.config.model_copy(update=advice), Killer(0, signal.SIGKILL)
    resumed = fork_server.run(case.stage, advised, case.inputs, store, watcher)
    assert watcher.seen[0] > 4 * 2 * LENGTH
    assert (resumed.digest == whole.digest) == to_the_bit
    one, other = (load_file(artifact.path / "model.safetensors") for artifact in (whole, resumed))
    for name, value in one.items():
        assert_close(other[name], value, rtol=0.02, atol=1e-3)
    at_once = [value for step, name, value in reported(resumed) if name == "micro_batch" and step > 5]
    every = advice.get("log_every_steps", 3)
    assert {step for step, name, _ in reported(resumed) if name == "loss" and step > 5} == {
        step for step in range(6, STEPS + 1) if step % every == 0
    }
    assert set(at_once) == {advice.get("micro_batch", 2)}


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["finetune", "distill"])
def test_killed_at_random(fork_server, cases, tmp_path, name, seed):
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(1, STEPS), 4))
    compare(
        fork_server,
        cases[name],
        tmp_path,
        [(step, draw.choice([signal.SIGKILL, signal.SIGTERM])) for step in steps],
    )
