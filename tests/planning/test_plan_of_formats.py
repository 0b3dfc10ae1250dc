"""Which model each format is made of, and what it is told of how it will be stored."""

import pytest

from flows import data_to_deployment
from leanpipe.evaluation.parity.parity import ParityConfig
from leanpipe.planning.steps import steps_of
from leanpipe.settings.flows import PipelineConfig
from tests.planning.test_plan import known, labels, plan_of


def test_only_q4_0_is_made_of_the_model_that_was_trained_on_its_grid():
    compared = PipelineConfig(parity=ParityConfig(models="all"))
    told = {
        one.label: one.portable() for one in steps_of(data_to_deployment.stages, compared, known(), "cpu")
    }
    aware = told["quantization_aware"]
    text = {"blocks": "tokenize", "teacher_logprobs": "cache_teacher"}
    assert aware.inputs == {"model": "finetune", "instructions": "instructions", **text}
    assert told["quantize"].inputs == {"model": "finetune", "documents": "clean"}
    assert told["quantize-q4_0"].inputs == {"model": "quantization_aware"}
    assert [told[label].config["formats"] for label in ("quantize", "quantize-q4_0")] == [["q8_0"], ["q4_0"]]
    assert told["parity-q4_0"].inputs == {"model": "quantization_aware", "served": "quantize-q4_0/q4_0"}
    assert told["parity-q8_0"].inputs == {"model": "finetune", "served": "quantize/q8_0"}


def test_a_training_on_the_grid_knows_how_it_will_be_stored_and_what_was_held_out():
    changed = PipelineConfig.model_validate(
        {
            "quantize": {"embeddings": "q5_0", "keep": ["down_proj"]},
            "finetune": {"seed": 3, "validation_share": 0.2, "thoughts": False},
        }
    )
    steps = {one.label: one for one in steps_of(data_to_deployment.stages, changed, known(), "cpu")}
    told = steps["quantization_aware"].config
    assert (told.embeddings, told.keep, told.thoughts) == ("q5_0", ("down_proj",), False)
    assert (told.validation_seed, told.validation_share) == (3, 0.2)


@pytest.mark.parametrize(
    "settings", [{"quantization_aware": {"tokens": 0}}, {"quantize": {"formats": ["q8_0", "nf4"]}}], ids=str
)
def test_nothing_is_trained_on_a_grid_that_is_not_asked_for(settings):
    steps = steps_of(data_to_deployment.stages, PipelineConfig.model_validate(settings), known(), "cpu")
    assert [one.label for one in steps if "quanti" in one.label] == ["quantize"]


def test_the_models_that_may_be_registered_are_compared_or_only_the_chosen_one():
    """`parity.models`: the chosen one is known only after the evaluations, so the plan has none of them."""
    everything, chosen = (
        plan_of(PipelineConfig(parity=ParityConfig(models=models))) for models in ("all", "chosen")
    )
    assert sum(label.startswith("parity-") for label in labels(everything)) == 3
    assert not [label for label in labels(chosen) if label.startswith("parity-")]
