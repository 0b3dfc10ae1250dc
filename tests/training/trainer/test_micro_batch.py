"""Fewer blocks at once when memory runs out, and the same losses."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.training.losses.objectives import CrossEntropy
from leanpipe.training.trainer import micro_batch
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.data import TrainingData
from leanpipe.training.trainer.trainer import train
from tests.support.processes import in_a_process_of_its_own, leave_free, lift_limit
from tests.support.tiny_models import tiny_llama
from tests.training.blocks import Recorder, tiny_blocks

pytestmark = pytest.mark.usefixtures("one_thread")


on_a_processor = pytest.mark.skipif(
    device.name() != "cpu", reason="the limits are those of the host's memory"
)


def settings(**changes) -> TrainingConfig:
    base = {"tokens": 3 * 64 * 256, "batch": 64, "learning_rate": 5e-3, "precision": "fp32"}
    large = {"attention_kernel": "sdpa", "fused_kernels": False}  # what takes the most memory
    return TrainingConfig(**{**base, **large, "log_every_steps": 1, "validations": 2, **changes})


def trained(folder: Path, config: TrainingConfig, length: int = 256) -> tuple[int, list[float]]:
    """The micro-batch in the end, and the losses."""
    blocks, report = tiny_blocks(folder / "blocks", length=length), Recorder()
    outcome = train(
        tiny_llama(), CrossEntropy(), TrainingData(blocks, [blocks[0]]), config, folder / "out", report
    )
    return outcome.micro_batch, list(report.series("loss").values())


def limited(folder: Path, megabytes: int, config: TrainingConfig, length: int = 256) -> Any:
    """What `trained` gives in a process that may take only so much more memory: allocations beyond that really fail.

    An error of the user's comes back as its text, and what was logged as the last value.
    """
    return in_a_process_of_its_own(__name__, _limited, folder, megabytes, config, length)


def _limited(folder: Path, megabytes: int, config: TrainingConfig, length: int) -> tuple[Any, list[str]]:
    torch.set_num_threads(1)
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("leanpipe").addHandler(handler)
    # One step of one block brings in what a training always needs; then the rest of the address space is taken away.
    trained(folder / "once", settings(tokens=1, batch=1))
    leave_free(megabytes * 2**20)
    try:
        answer: Any = trained(folder / "limited", config, length)
    except UserError as error:
        answer = str(error)
    lift_limit()
    return answer, logged


@on_a_processor
def test_when_memory_runs_out_it_goes_on_with_fewer_blocks_and_the_same_losses(tmp_path: Path):
    (found, losses), logged = limited(tmp_path, 75, settings(micro_batch=64))
    assert 1 <= found < 64
    # At which step depends on what the process had asked for before.
    assert re.fullmatch(r"memory ran out at step [123]: 32 blocks at once instead of 64", logged[0])
    free, expected = trained(tmp_path / "free", settings(micro_batch=4))
    assert free == 4
    assert losses == pytest.approx(expected, rel=1e-5)


@on_a_processor
def test_what_cannot_fit_is_one_sentence(tmp_path: Path):
    sentence, _ = limited(tmp_path, 1, settings(tokens=1, batch=2), length=4_096)
    assert "memory ran out at step 1 with one block of 4096 tokens: use shorter blocks" in sentence


@on_a_processor
def test_sizes_are_divisors_of_the_batch():
    assert [micro_batch.smaller(size, 12) for size in (12, 6, 3, 2, 1)] == [6, 3, 1, 1, None]
    model = tiny_llama()
    assert micro_batch.first_guess(model, settings(batch=12), 32) == 12
    assert micro_batch.first_guess(model, settings(batch=12), 512) == 4  # 2,048 tokens keep a processor busy
    assert micro_batch.first_guess(model, settings(batch=7), 10**9) == 1


@on_a_processor
def test_the_first_guess_fits_into_what_the_process_may_take():
    """A block of 256 tokens takes 2 layers x 256 tokens x 5,824 bytes, which is 3 MB: into 75% of 20 MB go five."""
    # Of 64 blocks, 2,048 tokens; and the divisor below five.
    assert in_a_process_of_its_own(__name__, _guess_within, 20 * 2**20) == (8, 4)


def _guess_within(limit: int) -> tuple[int, int]:
    model, config = tiny_llama(), settings()
    free = micro_batch.first_guess(model, config, 256)
    leave_free(limit)
    limited = micro_batch.first_guess(model, config, 256)
    lift_limit()
    return free, limited


def test_what_is_an_allocation_that_failed():
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")):
        assert micro_batch.is_out_of_memory(error)
    for error in (RuntimeError("shapes do not match"), ValueError("out of memory")):
        assert not micro_batch.is_out_of_memory(error)
