"""One number, minutes, decides how long the trainings are: as long as the plan lets them be, and the same ones every time."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from flows import data_to_deployment
from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import Store
from leanpipe.planning.machine import Machine, machine
from leanpipe.planning.plan import plan_flow
from leanpipe.planning.references import expected_inputs
from leanpipe.planning.within_minutes import (
    LENGTHS,
    RESERVE,
    Lengths,
    choose_lengths,
    find_lengths,
    kept_lengths,
    lengths_config,
    with_lengths,
)
from leanpipe.processes.run_stage import run_stage
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.presets import PRESETS, Preset


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> Machine:
    """A machine of a known speed: what is found must not depend on who else uses this one."""
    return replace(machine("this", tmp_path_factory.mktemp("disk")), kind="cpu", speed=1e11)


def planned(settings: PipelineConfig, where: Machine) -> float:
    return plan_flow(data_to_deployment.stages, settings, expected_inputs(settings), where).seconds


def found(where: Machine, minutes: float, preset: Preset = Preset.CPU, **sections) -> Lengths:
    settings = PRESETS[preset]().model_copy(update={"minutes": minutes, **sections})
    return find_lengths(settings, lambda some: planned(some, where))


@pytest.mark.parametrize("minutes", [60, 600, 100_000])
def test_the_run_should_end_by_then_and_not_long_before(where: Machine, minutes: float):
    settings = PRESETS[Preset.CPU]()
    lengths = found(where, minutes)
    seconds = planned(with_lengths(settings, lengths.tokens), where)
    assert lengths.seconds == pytest.approx(seconds)
    assert 0.94 * minutes * 60 * (1 - RESERVE) < seconds <= minutes * 60 * (1 - RESERVE)


def test_more_minutes_are_longer_trainings(where: Machine):
    lengths = [found(where, minutes).tokens for minutes in (40, 60, 600)]
    for name in LENGTHS:
        tokens = [one[name] for one in lengths]
        assert tokens == sorted(set(tokens)), name


def test_finetuning_is_longer_too_but_by_less(where: Machine):
    own = PRESETS[Preset.CPU]()
    tokens = found(where, 600).tokens
    longer = tokens["distill.tokens"] / own.distill.tokens
    assert tokens["finetune.tokens"] / own.finetune.tokens == pytest.approx(longer**0.5, rel=0.02)


@pytest.mark.parametrize("preset", [Preset.CPU, Preset.SMOKE, Preset.CARD_8GB])
def test_too_few_minutes_are_refused_with_the_least_which_is_enough(where: Machine, preset: Preset):
    with pytest.raises(UserError, match=r"minutes is 0\.001, but with 32 steps of each training") as refused:
        found(where, 0.001, preset)
    least = float(re.search(r"should take ([\d.]+) minutes here", str(refused.value)).group(1))
    lengths = found(where, least, preset)
    assert lengths.seconds <= least * 60 * (1 - RESERVE)
    with pytest.raises(UserError, match=f"should take {least:g} minutes here"):
        found(where, least - 0.11, preset)


def test_the_same_run_is_told_the_same_lengths_whatever_the_plan_says_now(tmp_path: Path):
    """Else a second run would compute everything anew, for a plan knows more after each."""
    settings = PRESETS[Preset.CPU]().model_copy(update={"minutes": 30})
    first, later = (Lengths(dict.fromkeys(LENGTHS, tokens), 60.0) for tokens in (10_000, 20_000))
    store = Store(tmp_path)

    def kept(of: PipelineConfig, lengths: Lengths) -> Lengths:
        summary = run_stage(choose_lengths, lengths_config(of, lengths), {}, store, Silent()).summary
        return kept_lengths(summary)

    assert kept(settings, first) == first
    assert kept(settings, later) == first
    assert kept(with_lengths(settings, later.tokens), later) == first
    assert kept(settings.model_copy(update={"minutes": 31}), later) == later
    assert kept(settings.model_copy(update={"teacher": "another"}), later) == later
