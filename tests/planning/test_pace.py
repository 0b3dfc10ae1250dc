"""A plan without a history: what it says of time was measured here, and it says so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import data_to_deployment
from leanpipe.core.estimate import Expected, Repeated
from leanpipe.core.report import Silent
from leanpipe.core.stage import Stage
from leanpipe.core.store import Artifact, Store
from leanpipe.planning.machine import Machine
from leanpipe.planning.pace import measure, pace
from leanpipe.planning.plan import ASSUMED, Plan, plan_flow
from leanpipe.planning.steps import RunInputs
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
    bases = {one.label: one.time_basis for one in plan.stages}
    timed = ("cache_teacher", "distill", "finetune", "evaluate-teacher", "evaluate-q4_0")
    assert {bases[label] for label in timed} == {MEASURED}
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


def test_what_was_measured_once_is_not_measured_again(here: Here, one_thread):
    works = [Repeated("read", TINY, 1e6, 32), Repeated("read", TINY, 1e9, 32), Repeated("write", TINY, 10)]
    first = measure(works, here)
    assert first[works[0]] == first[works[1]] > 0  # the same work, more or less of it
    assert list(measure(works, here).values()) == list(first.values())
    assert len(list(here.store.manifests(pace.name))) == 2


def test_what_does_not_fit_is_not_tried(here: Here):
    plan = planned(smoke(), here, replace(BOX, device_memory=10**6))
    assert plan.faults() and here.ran == []
    assert {one.time_basis for one in plan.stages} == {ASSUMED}


def test_what_cannot_be_timed_is_left_out(here: Here):
    huge = Repeated("read", TINY, 1e6, 10**15)  # no machine has the memory for it
    small = Repeated("adapt", TINY, 1e6, 32)
    assert measure([huge, small], here).keys() == {small}
