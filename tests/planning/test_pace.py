"""A plan without a history: what it says of time was measured here, and it says so."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from flows import data_to_deployment
from leanpipe.core.estimate import Expected, Repeated, read_arithmetic
from leanpipe.core.report import Silent
from leanpipe.core.stage import Stage
from leanpipe.core.store import MANIFEST, Artifact, Store
from leanpipe.planning.machine import Machine
from leanpipe.planning.pace import measure, pace
from leanpipe.planning.plan import ASSUMED, Plan, plan_flow
from leanpipe.planning.references import expected_inputs
from leanpipe.planning.steps import RunInputs, steps_of
from leanpipe.processes.run_stage import run_stage
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.presets import smoke
from tests.support.tiny_models import tiny_llama

TINY = tiny_llama().config
MEASURED = "time measured here in up to 2 steps"
# Of any speed: what was measured does not depend on what would have been assumed.
BOX = Machine("a box", "cpu", 64 * 10**9, 64 * 10**9, 10**11, 1e12)


class Here:
    """Runs stages in this process, and remembers which."""

    def __init__(self, store: Store):
        self.store, self.ran = store, []

    def __call__(self, stage: Stage, config: Any, inputs: Any) -> Artifact:
        self.ran.append(stage.name)
        return run_stage(stage, config, inputs, self.store, Silent())


def given() -> RunInputs:
    return RunInputs((Expected(facts={"bytes": 0}),), (Expected(facts={"model": TINY}),), Expected())


def planned(settings: PipelineConfig, run: Here | None, where: Machine = BOX) -> Plan:
    return plan_flow(data_to_deployment.stages, settings, given(), where, run and run.store, run)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(Store(tmp_path))


def test_a_first_plan_is_measured_and_says_so(here: Here, one_thread):
    plan = planned(smoke(), here)
    assert here.ran == ["pace"]  # all of it in one process
    bases = {one.label: one.time_basis for one in plan.stages}
    timed = ("cache_teacher", "distill", "finetune", "evaluate-teacher", "evaluate-q4_0")
    assert all(bases[label].startswith(MEASURED) for label in timed)
    assert bases["quantize"] == ASSUMED  # none of its work is repeated
    assert MEASURED in plan.markdown() and ASSUMED in plan.markdown()
    assumed = planned(smoke(), None)
    assert {one.time_basis for one in assumed.stages} == {ASSUMED}
    # Ten times as much of it takes ten times as long; assumptions about the device have no part in it.
    settings = smoke()
    longer = settings.model_copy(
        update={"distill": settings.distill.model_copy(update={"tokens": 10 * settings.distill.tokens})}
    )
    slower = planned(longer, here, replace(BOX, speed=1.0))
    first, tenfold = (next(one for one in found.stages if one.label == "distill") for found in (plan, slower))
    assert first.seconds < tenfold.seconds < 10 * first.seconds
    assert set(here.ran) == {"pace"}


def test_what_was_measured_once_is_not_measured_again_whichever_plan_wants_it(here: Here, one_thread):
    works = [Repeated("read", TINY, 1e6, 32), Repeated("read", TINY, 1e9, 32), Repeated("write", TINY, 10)]
    first = measure(works, here.store, here)
    assert first[works[0]] == first[works[1]]  # the same work, more or less of it
    assert first[works[0]].seconds_per_token > 0
    assert list(measure(works[1:], here.store, here).values()) == list(first.values())[1:]
    assert here.ran == ["pace"]
    measure([*works, Repeated("read", TINY, 1e6, 64)], here.store, here)
    assert here.ran == ["pace"] * 2
    timed = [len(manifest.config["works"]) for _, manifest in here.store.manifests(pace.name)]
    assert sorted(timed) == [1, 2]


def test_what_does_not_fit_is_not_tried(here: Here):
    plan = planned(smoke(), here, replace(BOX, device_memory=10**6))
    assert plan.faults() and here.ran == []
    assert {one.time_basis for one in plan.stages} == {ASSUMED}


class Unheard(LlamaConfig):
    """Of a class that transformers does not know."""

    model_type = "unheard-of"


def test_what_cannot_be_timed_is_left_out_and_costs_nothing_else_its_figure(here: Here, one_thread):
    huge = Repeated("read", TINY, 1e6, 10**15)  # no machine has the memory for it
    unheard = Repeated("read", Unheard(**TINY.to_dict()), 1e6, 32)
    small = Repeated("adapt", TINY, 1e6, 32)
    assert measure([huge, unheard, small], here.store, here).keys() == {small}


@pytest.fixture
def busy_core() -> Iterator[None]:
    """This thread on a core that two others want all the time."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})
    endless = [
        sys.executable,
        "-c",
        "import time\nwhile time.process_time() < 60: pass",
    ]
    others = [subprocess.Popen(endless) for _ in range(2)]  # they inherit the core
    try:
        yield
    finally:
        for one in others:
            one.kill()
            one.wait()
        os.sched_setaffinity(0, ours)


def grow_old(store: Store) -> None:
    """Let all that was timed be of an hour ago."""
    for path, _ in store.manifests(pace.name):
        os.utime(path / MANIFEST, (time.time() - 3_600,) * 2)


def test_what_was_measured_while_others_had_the_cores_says_so_and_is_measured_again(
    here: Here, one_thread, busy_core
):
    work = Repeated("train", TINY, 1e6, 1_024)
    assert measure([work], here.store, here)[work].disturbed
    measure([work], here.store, here)
    assert here.ran == [
        "pace"
    ]  # a search for lengths plans again and again: the machine is as it was a minute ago
    for times in (2, 3):
        grow_old(here.store)
        assert measure([work], here.store, here)[work].disturbed
        assert here.ran == ["pace"] * times
    grow_old(here.store)
    measure([work], here.store, here)
    assert here.ran == ["pace"] * 3  # this machine is never quiet


def test_what_was_measured_undisturbed_stays(here: Here, one_thread):
    work = Repeated("train", TINY, 1e6, 64)
    measure([work], here.store, here)
    ((path, manifest),) = here.store.manifests(pace.name)
    quiet = {name: [1.0, 3, False] for name in manifest.summary}
    (path / MANIFEST).write_text(manifest.model_copy(update={"summary": quiet}).model_dump_json())
    grow_old(here.store)
    assert measure([work], here.store, here)[work].seconds_per_token == 1.0
    assert here.ran == ["pace"]


def test_work_is_timed_in_the_arithmetic_in_which_it_is_done():
    """The default run does all of it in the one that is fastest here."""
    settings = PipelineConfig()
    steps = steps_of(data_to_deployment.stages, settings, expected_inputs(settings), "cpu")
    arithmetics = {work.arithmetic for step in steps for work in step.estimate.repeated if work.tokens}
    assert arithmetics == {read_arithmetic()}
