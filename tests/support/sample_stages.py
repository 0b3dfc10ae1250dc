"""Small real stages for the tests of what runs stages."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage


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
    return {"total": total, "process": os.getpid(), "helper": os.getppid()}


@stage(version=1, uses_device=True)
def killed_once(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Writes a checkpoint and is killed; the next attempt finds the checkpoint."""
    checkpoint = out / "checkpoint"
    if not checkpoint.exists():
        checkpoint.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"resumed_from": checkpoint.read_text()}


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
