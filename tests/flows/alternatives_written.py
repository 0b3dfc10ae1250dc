"""Other values of the settings about what a teacher writes and says of answers, each with the test that shows that it counts."""

from typing import Any

_WRITE, _ANSWERS = "teacher_text/test_write.py", "training/finetune/test_teacher_answers.py"
_SAMPLED = f"{_WRITE}::test_every_setting_of_the_sampling_counts"
_SEEDED = f"{_WRITE}::test_the_same_settings_write_the_same_text_and_another_seed_another"

# What is written may differ in the last digits of a logit, so none is seen by comparing two runs of a stage.
WRITTEN: dict[str, dict[str, tuple[Any, ...]]] = {
    "write": {
        "temperature": (_SAMPLED, 0.0),
        "top_p": (_SAMPLED, 0.5),
        "opening_tokens": (_SAMPLED, 4),
        "max_new_tokens": (_SAMPLED, 6),
        "streams": (_SAMPLED, 2),
        "max_prompt_tokens": (f"{_WRITE}::test_answers_are_conversations_that_finetuning_reads", 40),
        "min_tokens": (f"{_WRITE}::test_what_is_dropped_and_why", 8),
        "engine": (_SEEDED, "llama_cpp", "transformers"),
        "seed": (_SEEDED, 1),
    },
    "distill": {
        "written_share": (
            "training/distill/test_distill.py::test_a_share_of_the_text_is_what_the_teacher_wrote",
            0.5,
        ),
    },
    "finetune": {
        "kl_weight": (
            f"{_ANSWERS}::test_with_its_teachers_predictions_a_model_comes_nearer_to_the_teacher",
            0.5,
        ),
        "written_share": (
            f"{_ANSWERS}::test_the_teachers_answers_are_learnt_and_what_is_held_out_stays_as_it_was_given",
            0.5,
        ),
    },
}
