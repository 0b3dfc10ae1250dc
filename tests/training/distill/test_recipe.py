"""Learning rate and batch that follow from tokens and size: where they are left at 0, and never where they are given."""

from pathlib import Path

import pytest
import torch

from flows import data_to_deployment
from leanpipe.core.estimate import Expected
from leanpipe.planning.machine import machine
from leanpipe.planning.plan import plan_flow
from leanpipe.planning.references import expected_inputs
from leanpipe.planning.steps import steps_of
from leanpipe.settings.presets import PRESETS, Preset
from leanpipe.tokens.blocks import expected_blocks
from leanpipe.training.distill.distill import DistillConfig, DistillInputs, with_recipe
from leanpipe.training.distill.distill import distill as distill_stage
from leanpipe.training.distill.recipe import FROZEN_RATE, FROZEN_TOKENS, RATE, TOKENS, derive_recipe
from tests.support.tiny_models import tiny_model
from tests.training.blocks import Recorder, write_blocks

EIGHTY_MILLION = 79_905_600
"""Parameters of the default run's student, which the rate was measured on."""


def derived(
    parameters: int = EIGHTY_MILLION, block: int = 256, fresh: bool = False, frozen: bool = False, **settings
):
    return derive_recipe(DistillConfig(**settings), parameters, block, fresh=fresh, frozen=frozen)


def test_what_was_measured_is_taken_and_the_default_follows_from_it():
    found = derived(tokens=TOKENS)
    assert found == DistillConfig(tokens=TOKENS, learning_rate=RATE, batch=1) and RATE == 3.5e-4
    assert derived() == DistillConfig(learning_rate=3.0e-4, batch=1)


@pytest.mark.parametrize("parameters", [79_300_000, 80_709_004])
def test_a_vocabulary_of_another_corpus_moves_the_default_by_nothing(parameters: int):
    assert derived(parameters) == derived()


def test_what_is_given_is_taken():
    assert derived(learning_rate=1e-3, batch=4) == DistillConfig(learning_rate=1e-3, batch=4)
    assert derived(learning_rate=1e-3).learning_rate == 1e-3
    assert derived(batch=4).batch == 4


def test_longer_runs_learn_in_larger_batches_and_at_a_lower_rate():
    budgets = [8_000, 40_960, 400_000, 1_600_000, 20_000_000]
    found = [derived(tokens=tokens) for tokens in budgets]
    assert [one.batch for one in found] == [1, 1, 2, 4, 8]
    assert found[0].learning_rate == 3.5e-4, "a shorter run takes what was measured"
    alike = [derived(tokens=tokens, batch=4).learning_rate for tokens in budgets[1:]]
    assert alike == sorted(alike, reverse=True) and len(set(alike)) == len(alike)


def test_larger_batches_learn_at_a_higher_rate_and_larger_students_at_a_lower():
    measured = derived(tokens=TOKENS, batch=1).learning_rate
    assert derived(tokens=TOKENS, batch=4).learning_rate == 2 * measured
    assert derived(block=1024).learning_rate == derived(batch=4).learning_rate
    assert derived(1_000_000_000).learning_rate < derived().learning_rate < derived(10_000_000).learning_rate


def test_new_weights_learn_at_a_higher_rate_in_long_runs():
    assert derived(fresh=True) == derived()
    # Step Law's own figures: 20 million tokens in batches of 8,567 of them.
    law = 1.79 * EIGHTY_MILLION**-0.713 * 2e7**0.307
    found = derived(fresh=True, tokens=20_000_000, batch=8_567, block=1)
    assert found.learning_rate == pytest.approx(law, rel=0.05)
    assert found.learning_rate > derived(tokens=20_000_000, batch=8_567, block=1).learning_rate
    assert derived(fresh=True, learning_rate=1e-3).learning_rate == 1e-3


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [0, 1, 3, 8, 4_096])
@pytest.mark.parametrize("tokens", [1, 40_960, 10**7, 10**12])
def test_a_batch_that_follows_can_be_shared_by_processes_and_micro_batches(
    processes: int, micro_batch: int, tokens: int
):
    found = derived(block=8, tokens=tokens, processes=processes, micro_batch=micro_batch)
    DistillConfig.model_validate(found.model_dump())
    assert 0 < found.learning_rate <= 1


def test_the_plan_of_the_default_run_tells_distill_what_follows(tmp_path: Path):
    settings = PRESETS[Preset.CPU]()
    given = expected_inputs(settings)
    steps = {one.label: one for one in steps_of(data_to_deployment.stages, settings, given, "cpu")}
    config = steps["distill"].config
    assert (config.learning_rate, config.batch) == (4.8e-4, 1)
    plan = plan_flow(data_to_deployment.stages, settings, given, machine("this", tmp_path))
    assert "learning rate 0.00048, batches of 256 tokens" in plan.markdown()


def test_the_stage_itself_takes_the_same_where_nobody_told_it(tmp_path: Path):
    """Both ways give one model, to the last byte, and the figures say which rate and batch it was."""
    torch.set_num_threads(1)
    teacher = tiny_model(tmp_path / "teacher", layers=2)
    inputs = DistillInputs(teacher, write_blocks(tmp_path / "blocks"))
    left = DistillConfig(tokens=128, validation_tokens=32, kl_weight=0, precision="fp32")
    told = with_recipe(left, Expected(teacher), expected_blocks(inputs.blocks))
    made = []
    for name, config in (("left", left), ("told", told)):
        (tmp_path / name).mkdir()
        summary = distill_stage.function(config, inputs, tmp_path / name, Recorder())
        assert (summary["learning_rate"], summary["batch_tokens"]) == (told.learning_rate, 32 * told.batch)
        made.append((tmp_path / name / "model.safetensors").read_bytes())
    assert told.learning_rate > 0 and made[0] == made[1]


def test_where_not_all_learns_the_rate_is_highest_where_it_was_measured():
    rates = [
        derived(frozen=True, tokens=tokens, batch=1).learning_rate
        for tokens in (16_384, FROZEN_TOKENS, 400_000)
    ]
    assert rates[:2] == [3.5e-4, FROZEN_RATE] and rates[2] < FROZEN_RATE
    assert derived(frozen=True).learning_rate == 4.8e-4
