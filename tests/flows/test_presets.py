"""The presets for cards fit the cards that they are named after, with the teachers that they are said to be for."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows import data_to_deployment, pretrain
from flows.cli.read_settings import read_settings
from leanpipe.core.estimate import Expected
from leanpipe.planning.machine import machine
from leanpipe.planning.plan import Plan, plan_flow
from leanpipe.planning.references import describe_model, expected_inputs
from leanpipe.settings.flows import PretrainSettings
from leanpipe.settings.presets import PRESETS, Preset

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CARDS = {Preset.CARD_8GB: "8", Preset.CARD_24GB: "24", Preset.CARD_80GB: "80"}


def decoder(width: int, layers: int, heads: int, kv_heads: int, mlp: int, words: int) -> "PretrainedConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )


LARGEST = {
    Preset.CARD_8GB: (960, 32, 15, 5, 2_560, 49_152),  # SmolLM2-360M
    Preset.CARD_24GB: (2_048, 16, 32, 8, 8_192, 128_256),  # Llama 3.2 1B
    Preset.CARD_80GB: (3_072, 28, 24, 8, 8_192, 128_256),  # Llama 3.2 3B
}
"""Shapes of published models."""


def planned(preset: Preset, teacher: "PretrainedConfig", card: str) -> Plan:
    # With as much disk as it takes: that of whoever runs this test is not the card's.
    where = replace(machine(card, Path("/")), disk=10**12)
    settings = PRESETS[preset]()
    given = replace(expected_inputs(settings), models=(Expected(facts={"model": teacher}),))
    return plan_flow(data_to_deployment.stages, settings, given, where)


@pytest.mark.parametrize("preset", CARDS)
def test_a_preset_fits_its_card(preset: Preset):
    plan = planned(preset, describe_model("smollm2-135m-instruct"), CARDS[preset])
    assert {"distill", "finetune", "quantize", "evaluate-nf4"} <= {one.label for one in plan.stages}
    assert plan.faults() == []
    assert 5 * 60 < plan.seconds < 3_600, "worth a card, and done in an hour"


@pytest.mark.parametrize("preset", CARDS)
def test_a_preset_fits_its_card_with_a_larger_teacher(preset: Preset):
    assert planned(preset, decoder(*LARGEST[preset]), CARDS[preset]).faults() == []


@pytest.mark.parametrize(("preset", "smaller"), [(Preset.CARD_24GB, "8"), (Preset.CARD_80GB, "24")])
def test_with_that_teacher_it_does_not_fit_a_smaller_card(preset: Preset, smaller: str):
    assert "distill needs" in " ".join(planned(preset, decoder(*LARGEST[preset]), smaller).faults())


@pytest.mark.parametrize("preset", CARDS)
def test_predictions_that_are_cached_are_not_refused_for_their_size(preset: Preset):
    settings = PRESETS[preset]()
    plan = planned(preset, decoder(*LARGEST[preset]), CARDS[preset])
    cached = [one.estimate.disk for one in plan.stages if one.label == "cache_teacher"]
    assert len(cached) == settings.distill.uses_cache
    assert all(size < settings.cache.max_gigabytes * 1e9 for size in cached)


@pytest.mark.parametrize("preset", CARDS)
def test_training_from_nothing_fits_the_card(preset: Preset):
    settings = read_settings(PretrainSettings, preset)
    where = replace(machine(CARDS[preset], Path("/")), disk=10**12)
    plan = plan_flow(pretrain.stages, settings, expected_inputs(settings), where)
    assert "pretrain" in [one.label for one in plan.stages] and plan.faults() == []
