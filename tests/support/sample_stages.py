"""Small real stages for the tests of what runs stages."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.keys import NotInKey
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage

IMPORTED_BY = os.getpid()
"""The process that imported these stages."""


class CountConfig(StageConfig):
    """How to count."""

    step: int = Field(1, ge=1, le=100)
    """By how much."""


@dataclass(frozen=True)
class CountInputs:
    """Files whose characters are counted."""

    texts: tuple[Path, ...]


@stage(version=1)
def count(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Counts characters; leaves a mark that tells how often it ran."""
    total = sum(len(path.read_text()) for path in inputs.texts) * config.step
    report.metrics({"total": total}, step=1)
    report.progress(1, 1, "files")
    (out / "total.txt").write_text(str(total))
    (out / "report" / "when.txt").write_text(str(time.time_ns()))
    return {"total": total, "process": os.getpid(), "helper": os.getppid(), "imported_by": IMPORTED_BY}


@stage(version=1, uses_device=True)
def killed_once(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Writes a checkpoint and is killed; the next attempt finds the checkpoint."""
    checkpoint = out / "checkpoint"
    if not checkpoint.exists():
        checkpoint.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"resumed_from": checkpoint.read_text()}


class FullDiskConfig(StageConfig):
    """For a stage that takes disk."""

    bytes: int = Field(ge=1, le=10**9)
    """How much."""


@stage(version=1)
def fill_disk(config: FullDiskConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Writes more than there may be room for."""
    (out / "filler").write_bytes(bytes(config.bytes))
    return {}


class AtOnceConfig(StageConfig):
    """For a stage that takes memory."""

    megabytes: Annotated[int, NotInKey("how much it takes, not what it gives")] = Field(1, ge=1, le=1_000)
    """How much."""


@stage(version=1, uses_device=True)
def killed_at_work(config: AtOnceConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Takes memory for four seconds and is killed; what is left for the next attempt takes none."""
    mark = out / "begun"
    if not mark.exists():
        mark.write_text("")
        block = bytearray(config.megabytes * 1_000_000)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(4)
        os.kill(os.getpid(), signal.SIGKILL)
    return {"peak_memory": device.peak_memory()}


@stage(version=1, uses_device=True)
def refused(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """What a person did wrong."""
    raise UserError("texts: there is nothing to count, give more")


@stage(version=1, uses_device=True)
def broken(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """A mistake of ours."""
    raise ZeroDivisionError("a mistake in the stage")


@stage(version=1, uses_device=True)
def endless(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Says who it is, and stays."""
    (inputs.texts[0].parent / "child.pid").write_text(str(os.getpid()))
    time.sleep(600)
    return {}


@stage(version=1, uses_device=True)
def greedy(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Takes 300 MB."""
    block = bytearray(300_000_000)
    block[::4096] = b"x" * len(block[::4096])
    return {"bytes": len(block)}


class TogetherConfig(StageConfig):
    """For a stage of several processes."""

    processes: int = Field(2, ge=1, le=4)
    """How many."""
    then: str = Field("return", max_length=20)
    """What the second one does."""


@stage(version=1)
def together(config: TogetherConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """The first process waits for what becomes of the second one."""
    from leanpipe.processes.launcher import leave, rank

    (out / f"{rank()}.pid").write_text(str(os.getpid()))
    if rank():
        if config.then.endswith("later"):
            time.sleep(0.5)
        if config.then.startswith("refuse"):
            raise UserError("the second one refuses")
        if config.then == "break":
            raise ZeroDivisionError("a mistake in the second one")
        if config.then.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)
    leave()
    report.metrics({"text": inputs.texts[0].stat().st_size}, 1)
    if config.then.endswith("later"):
        while not (out / "1.pid").exists():
            time.sleep(0.01)
        raise RuntimeError("the second one does not answer")
    if config.then != "return":
        time.sleep(600)
    return {"rank": rank(), "process": os.getpid()}


@stage(version=1, uses_device=True)
def careful(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Goes on until it is told to end, and then writes down that it was."""
    from leanpipe.processes.sigterm import DeferredSigterm

    with DeferredSigterm() as termination:
        report.metrics({"began": 1})
        while not termination.requested:
            time.sleep(0.05)
        report.metrics({"last": 1})
        (inputs.texts[0].parent / "ended.txt").write_text("in good order")
    termination.follow("nothing is lost")
    return {}


@stage(version=1, uses_device=True)
def talking(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Tells of a step a hundred times a second until it is told to end, and then writes down of how many."""
    from leanpipe.processes.sigterm import DeferredSigterm

    step = 0
    with DeferredSigterm() as termination:
        while not termination.requested:
            step += 1
            report.metrics({"loss": 1}, step)
            time.sleep(0.01)
    (inputs.texts[0].parent / "steps.txt").write_text(str(step))
    termination.follow("nothing is lost")
    return {}


@stage(version=1, uses_device=True)
def waiting(config: TogetherConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Computes a little with two threads, and pauses, many times over: what the other thread does in the pauses is measured."""
    import torch

    from leanpipe.processes.launcher import leave

    leave()
    torch.set_num_threads(2)
    values, pauses = torch.ones(100_000), 40
    before = time.process_time() - time.thread_time()
    for _ in range(pauses):
        values.add_(1)
        time.sleep(0.01)
    others = time.process_time() - time.thread_time() - before
    return {"seconds_per_pause": others / pauses, "threads": os.environ.get("OMP_NUM_THREADS", "")}
