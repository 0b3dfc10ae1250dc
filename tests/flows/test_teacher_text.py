"""Where a flow has the teacher write, and what reads that: told by the plan, without computing anything."""

from flows import data_to_deployment, finetune
from leanpipe.planning.references import expected_inputs
from leanpipe.planning.steps import Step, steps_of
from leanpipe.settings.flows import FinetuneSettings, PipelineConfig


def planned(**settings) -> dict[str, Step]:
    config = PipelineConfig(**settings)
    steps = steps_of(data_to_deployment.stages, config, expected_inputs(config), "cpu")
    return {step.label: step for step in steps}


def origins(step: Step) -> dict[str, str]:
    return step.portable().inputs


def test_nothing_is_written_by_default():
    steps = planned()
    assert not {"write", "write-answers", "tokenize-written", "cache-written"} & set(steps)
    assert not {"written", "written_logprobs"} & set(origins(steps["distill"]))


def test_the_students_text_is_the_corpuss_and_the_teachers_by_their_shares():
    steps = planned(distill={"tokens": 25_600, "written_share": 0.25})
    assert steps["write"].config.tokens == 6_400 and origins(steps["write"])["documents"] == "clean"
    assert origins(steps["tokenize-written"])["documents"] == "write"
    assert (steps["cache_teacher"].config.blocks, steps["cache-written"].config.blocks) == (75, 25)
    read = origins(steps["distill"])
    assert (read["written"], read["written_logprobs"]) == ("tokenize-written", "cache-written")


def test_a_teacher_that_is_asked_at_every_step_is_not_asked_before():
    steps = planned(distill={"written_share": 0.25, "teacher_logprobs": "online"})
    assert "tokenize-written" in steps and not {"cache_teacher", "cache-written"} & set(steps)


def test_answers_are_written_and_predicted_by_the_teacher_whose_tokens_the_student_has():
    steps = planned(finetune={"tokens": 1_000, "written_share": 0.5, "kl_weight": 0.5})
    assert steps["write-answers"].config.tokens == 500
    read = origins(steps["finetune"])
    assert (read["written"], read["teacher"]) == ("write-answers", "cut_vocabulary")


def test_a_student_of_another_vocabulary_learns_from_the_answers_alone():
    other = {"tokenize": {"tokenizer": "bpe"}, "distill": {"kl_weight": 0}}
    steps = planned(**other, finetune={"written_share": 0.5, "kl_weight": 0.5})
    assert "write-answers" not in steps and not {"written", "teacher"} & set(origins(steps["finetune"]))
    assert steps["finetune"].config.kl_weight == 0


def test_finetuning_alone_has_no_teacher_whatever_is_set():
    config = FinetuneSettings(finetune={"kl_weight": 0.5})
    (step,) = steps_of(finetune.stages, config, expected_inputs(config), "cpu")
    assert step.config.kl_weight == 0 and "teacher" not in origins(step)
