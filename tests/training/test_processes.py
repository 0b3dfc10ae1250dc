"""Two processes that train together: real ones, over gloo."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from leanpipe import device
from leanpipe.report import Silent
from leanpipe.stage import run_stage
from leanpipe.store import Store, external
from leanpipe.together import WorkerDied
from leanpipe.training.finetune import FinetuneConfig, finetune
from tests.tiny import tiny_model
from tests.training.blocks import Recorder

LENGTH = 32


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    file = root / "instructions.jsonl"
    records = ({"prompt": f"Say {n}", "completion": "so " * n} for n in range(1, 30))
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {"model": external("model", tiny_model(root / "model")), "instructions": external("told", file)}


def settings(**changes) -> FinetuneConfig:
    base = {"tokens": 6 * 4 * LENGTH, "batch": 4, "max_length": LENGTH, "precision": "fp32", "rank": 4}
    base |= {"log_every_steps": 1, "validations": 3, "validation_share": 0.2, "checkpoint_every_steps": 2}
    return FinetuneConfig(**{**base, "micro_batch": 1, **changes})


class KillOne(Silent):
    """Kills the second of the processes after a step."""

    def progress(self, done: float, total: float, what: str) -> None:
        if done == 3 * 4 * LENGTH:
            workers = [one for one in psutil.Process().children() if "leanpipe.worker" in one.cmdline()]
            os.kill(workers[1].pid, signal.SIGKILL)


@pytest.mark.skipif(
    device.name() == "cuda" and device.count() < 2, reason="there is one GPU for two processes"
)
def test_several_processes_train_as_one_does(tmp_path: Path, inputs):
    """The same command with processes=2; one of them is killed on the way, and the stage run again."""
    alone, together = Recorder(), Recorder()
    one = run_stage(finetune, settings(), inputs, Store(tmp_path), alone)
    with pytest.raises(WorkerDied, match="process 1 of stage finetune ended with -9"):
        run_stage(finetune, settings(processes=2), inputs, Store(tmp_path), KillOne())
    two = run_stage(finetune, settings(processes=2), inputs, Store(tmp_path), together)
    assert not [one for one in psutil.Process().children() if "leanpipe.worker" in one.cmdline()]
    assert list(together.series("loss")) == [3, 4, 5, 6]  # from the checkpoint after step 2
    for name in ("loss", "validation_loss", "grad_norm", "learning_rate"):
        for step, value in together.series(name).items():
            assert value == pytest.approx(alone.series(name)[step], rel=1e-4), (name, step)
    assert two.summary["tokens"] == one.summary["tokens"]
    assert sorted(path.name for path in two.path.iterdir()) == sorted(
        path.name for path in one.path.iterdir()
    )
    assert two.peak_memory > 0
