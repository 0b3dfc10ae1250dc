"""For every setting another value, in settings under which it matters, on the inputs of tests/flows/workshop.py."""

from typing import get_args

from leanpipe.compression.gguf_types import GgufType
from tests.flows.alternative_shapes import SHAPE_BASES, SHAPES
from tests.flows.alternatives_clean import CLEAN
from tests.flows.alternatives_human import HUMAN, VOTED
from tests.flows.alternatives_written import WRITTEN
from tests.flows.rows import TRAINING, Overrides, Row, shown_by, to

BASES: dict[str, Overrides] = {
    **SHAPE_BASES,
    "clean": {"languages": ("en",), "split.validation": 0.2, "split.test": 0.3},
    "inspect": {"documents": 20, "examples": 1},
    "tokenize": {"block_length": 32, "vocabulary": 400, "min_occurrences": 1},
    # A teacher that learned nothing expects every token.
    "cut_vocabulary": {"max_gone": 1.0},
    "cache": {"blocks": 4, "top_k": 8, "tail_samples": 2},
    # Four steps of two blocks.
    "distill": {
        "tokens": 256,
        "batch": 2,
        "micro_batch": 2,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "kl_weight": 0.5,
        "validations": 2,
        "validation_tokens": 64,
        "log_every_steps": 2,
    },
    # Four steps of two conversations, half of them with answers of the student's own.
    "on_policy": {
        "steps": 4,
        "batch": 2,
        "micro_batch": 2,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "max_new_tokens": 4,
        "max_prompt_tokens": 64,
        "validation_conversations": 2,
        "log_every_steps": 2,
    },
    # Four steps of two blocks of 32 tokens.
    "pretrain": {
        "depth": 1,
        "tokens": 256,
        "batch": 2,
        "micro_batch": 2,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "validations": 2,
        "validation_tokens": 64,
        "log_every_steps": 2,
        "attention.window": 8,
        "attention.block": 4,
    },
    "finetune": {
        "tokens": 384,
        "batch": 2,
        "micro_batch": 2,
        "max_length": 48,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "rank": 4,
        "alpha": 8,
        "validation_share": 0.3,
        "validations": 2,
        "validation_tokens": 96,
        "general_tokens": 200,
        "log_every_steps": 2,
    },
    # Four steps of two blocks, half of them conversations.
    "quantization_aware": {
        "tokens": 256,
        "batch": 2,
        "micro_batch": 2,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "kl_weight": 0.5,
        "validation_share": 0.3,
        "validation_tokens": 64,
        "log_every_steps": 2,
    },
    "describe_model": {},
    "quantize": {},
    "evaluate": {
        "text_bytes": 2_000,
        "document_bytes": 500,
        "context": 64,
        "prompts": ("What is a list?",),
        "max_new_tokens": 5,
        "prefill_tokens": 16,
        "decode_tokens": 4,
        "repeats": 1,
    },
    "registration": {},
}
"""The settings that each section is first run with."""


BIGBIRD = {"attention.pattern": "bigbird"}

_BUDGET = "compression/test_budget.py"
_TASKS = "evaluation/task_scores"
_ASKED = f"{_TASKS}/test_score_tasks.py::test_settings_say_what_is_asked_and_how"
_WEIGHT_ONLY = "evaluation/parity/test_parity_weight_only.py"
SECTIONS: dict[str, dict[str, Row]] = {
    **SHAPES,
    "clean": CLEAN,
    "inspect": {"documents": to(10), "examples": to(0)},
    "tokenize": {
        "tokenizer": to("bpe", "wordpiece", "unigram"),
        "vocabulary": to(420, tokenizer="bpe"),
        "min_occurrences": to(
            1000, tokenizer="bpe", refused={1000: r"supports a bpe vocabulary of \d+ tokens"}
        ),
        "training_bytes": to(2_000, tokenizer="bpe"),
        "block_length": to(64),
        "packing": to("concatenate"),
        "max_padding": shown_by(
            "tokens/test_pack.py::test_the_emptiest_blocks_are_joined_where_the_padding_would_be_too_much", 0
        ),
    },
    "cache": {
        "top_k": to(9),
        "tail_samples": to(0, 3),
        "max_gigabytes": to(1e-6, refused={1e-6: "would take .* GB .* but cache.max_gigabytes is 1e-06"}),
    },
    "distill": TRAINING
    | {
        "tokens": to(512),
        "validation_tokens": to(32),
        "hidden_weight": to(1.0, teacher_logprobs="online"),
        "frozen": shown_by("training/distill/test_frozen.py::test_none_trains_every_weight", "none"),
        "teacher_logprobs": to("online"),
        "divergence": to("reverse_kl", "jensen_shannon"),
        "beta": to(0.1, divergence="jensen_shannon"),
        "kl_weight": to(0, 1),
        "temperature": to(2),
        "teacher_memory": shown_by(
            "models/test_load.py::test_a_student_learns_the_same_from_a_teacher_on_disk", 2.5
        ),
    },
    "on_policy": {
        "steps": to(5),
        "student_share": to(0, 1),
        "beta": to(0, 1),
        "temperature": to(2),
        "max_new_tokens": to(6),
        "max_prompt_tokens": to(
            20, 8, 509, refused={8: "with a prompt of at most 8 tokens", 509: "reads 512"}
        ),
        "learning_rate": to(5e-4),
        "batch": to(4),
        "micro_batch": to(1),
        "precision": to("bf16"),
        "validation_conversations": to(4),
        "checkpoint_every_steps": to(1),
        "log_every_steps": to(1),
        "seed": to(1),
    },
    "pretrain": TRAINING
    | {
        "tokens": to(512),
        "validation_tokens": to(32),
        "depth": to(2),
        "architecture": to("gpt2"),
        "width": to(32),
        "heads": to(2),
        "kv_heads": to(1, heads=2),
        "mlp_width": to(64),
        "tied_embeddings": to(False),
        "tokens_per_parameter": to(0.02, tokens=0, width=32, mlp_width=32, **{"tokens_per_parameter": 0.01}),
        "attention.pattern": to("sliding_window", "longformer", "bigbird", "reformer"),
        "attention.window": to(4, **{"attention.pattern": "sliding_window"}),
        "attention.global_tokens": to(1, **{"attention.pattern": "longformer"}),
        "attention.random_blocks": to(1, **BIGBIRD),
        "attention.block": to(2, **BIGBIRD),
        "attention.buckets": to(2, **{"attention.pattern": "reformer"}),
        "attention.seed": to(1, **BIGBIRD),
    },
    "finetune": TRAINING
    | {
        "tokens": to(768),
        "validation_tokens": to(48),
        "adapter": to("dora", "rslora"),
        "base": to("nf4"),
        "general_tokens": to(0, 40),
        "rank": to(2),
        "alpha": to(64),
        "dropout": to(0.5),
        "target_modules": to(("q_proj",), ("query",), refused={("query",): "no linear layer"}),
        "max_length": to(32),
        "thoughts": shown_by(
            "training/finetune/test_template.py::test_thoughts_are_learnt_or_only_read", False
        ),
        "validation_share": to(0.5),
    },
    "quantization_aware": TRAINING
    | {
        "tokens": to(512),
        "validation_tokens": to(32),
        "conversations": to(0, 1),
        "kl_weight": to(0, 1),
        "calibration_tokens": to(0),
    },
    "describe_model": {"depth": to(1, 3)},
    "cut_vocabulary": {
        "keep": shown_by("planning/test_plan.py::test_a_vocabulary_is_cut_unless_it_is_kept_or_new", "all"),
        "min_occurrences": to(20),
        "coverage": to(0.9),
        "counted_bytes": to(1_000),
        "max_gone": shown_by(
            "training/vocabulary/test_cut_vocabulary.py::test_unused_tokens_stay_that_the_teacher_expects",
            0.1,
        ),
        "max_unseen": shown_by(
            "training/vocabulary/test_cut_vocabulary.py::test_a_corpus_too_small_to_count_on_is_refused", 1.0
        ),
    },
    "quantize": {
        "formats": to(("nf4",), ("int8",), ("q5_0",)),
        "embeddings": shown_by(
            "compression/test_quantize_gguf.py::test_embeddings_and_kept_modules_are_stored_as_asked",
            *get_args(GgufType),
        ),
        "calibration_tokens": shown_by(f"{_BUDGET}::test_weights_that_matter_most_are_rounded_best", 0),
        "max_mb": shown_by(f"{_BUDGET}::test_a_file_within_a_budget_has_the_types_that_lose_least", 1.0),
        "max_loss": shown_by(f"{_BUDGET}::test_a_bound_of_loss_holds_for_what_is_measured", 0.1),
        "min_tokens_per_second": shown_by(
            f"{_BUDGET}::test_what_cannot_be_reached_is_refused_by_the_bound_that_is_in_the_way", 1.0
        ),
        "group_size": shown_by(
            f"{_WEIGHT_ONLY}::test_layers_whose_rows_hold_no_whole_groups_are_named_before_any_work", 32, 128
        ),
        "rounding_steps": shown_by(
            f"{_WEIGHT_ONLY}::test_folders_are_smaller_and_near_and_keep_what_is_asked_for", 2
        ),
        "double_quantization": to(False, formats=("nf4",)),
        "outlier_threshold": to(0.5, formats=("int8",)),
        "keep": to(("down_proj",), ("nothing",), refused={("nothing",): "no linear layer"}),
    },
    "sweep": {
        "embeddings": shown_by(
            "flows/test_sweep.py::test_every_combination_that_makes_another_model_is_made_once", ("q5_0",)
        ),
    },
    # Not among the bases: each run of it starts a server.
    "parity": {
        "models": shown_by(
            "planning/test_plan_of_formats.py::test_the_models_that_may_be_registered_are_compared_or_only_the_chosen_one",
            "all",
        ),
        "prompts": shown_by(
            "evaluation/parity/test_parity.py::test_prompts_and_answers_are_those_that_are_asked_for",
            ("Why?",),
        ),
        "max_new_tokens": shown_by(
            "evaluation/parity/test_parity.py::test_prompts_and_answers_are_those_that_are_asked_for", 3
        ),
        "gguf_engine": shown_by(
            "evaluation/parity/test_parity_gguf.py::test_a_clean_form_passes_through_every_engine", "openvino"
        ),
    },
    "evaluate": {
        "text_bytes": to(1_000),
        "document_bytes": to(300),
        "context": to(32, 100_000, refused={100_000: "reads 512 at most"}),
        "stride": to(16, 65, refused={65: "more than context"}),
        "conversations": to(3),
        "prompts": to(("What is a list?", "What is a number?")),
        "sampling": to(
            ("greedy",), ("temperature=2", "min_p=0.2"), ("hot",), refused={("hot",): "no way of sampling"}
        ),
        "max_new_tokens": to(3),
        "prefill_tokens": to(8),
        "decode_tokens": to(2),
        "repeats": to(2),
        "batch_sizes": to((3,), (2,)),
        "gguf_engine": shown_by(
            "evaluation/test_served.py::test_a_gguf_model_is_measured_by_the_engine_that_is_asked_for",
            "openvino",
        ),
        "stored_weights": shown_by(
            "tasks/test_served_step.py::test_nothing_is_scored_twice_that_its_engine_scored", True
        ),
        "model_memory": shown_by(
            "models/test_load.py::test_a_model_on_disk_is_evaluated_as_if_it_fitted", 2.5
        ),
    },
    "score_tasks": {
        "names": shown_by(
            f"{_TASKS}/test_task_files.py::test_names_that_lm_eval_does_not_know_or_whose_data_is_out_of_reach_are_said",
            ("arc_easy",),
        ),
        "items": shown_by(_ASKED, 2),
        "chat_template": shown_by(_ASKED, True),
        "batch": shown_by(_ASKED, 1),
    },
    "registration": {
        "name": to("another", "no name", refused={"no name": "name"}),
        "max_quality_loss": to(0.03),
        "max_size_mb": to(60),
        "prefer_smaller": to(False),
        "min_improvement": to(0.05),
        "non_inferiority_margin": to(0.001),
        "min_size_saving": to(0.5),
        "error_budget": to(0.5),
        "confidence": to(0.5),
        "min_documents": to(10),
        "unit": shown_by("evaluation/decide/test_units.py::test_the_unit_is_what_a_person_says", "file"),
        "max_documents": shown_by(
            "tasks/test_contest.py::test_max_documents_are_scored_where_fewer_cannot_tell", 40
        ),
        "margins": to(
            ("bits_per_byte=0.0001",),
            ("nothing=0.1",),
            refused={("nothing=0.1",): "no figure nothing"},
        ),
        "bounds": to(("parameters<=1",), ("size_bytes",), refused={("size_bytes",): "is no bound"}),
        "approval": shown_by(
            "flows/test_deployments.py::test_approval_is_asked_for_on_the_page_of_the_run", True
        ),
        "approval_hours": shown_by(
            "flows/test_deployments.py::test_approval_is_waited_for_approval_hours", 1.0
        ),
    },
}
for _section, _rows in (WRITTEN | HUMAN).items():
    SECTIONS.setdefault(_section, {}).update({name: shown_by(*row) for name, row in _rows.items()})
MISSING = "/not/there"
GIVEN: dict[str, Row] = {
    name: to("other", MISSING, refused={MISSING: "/not/there"})
    for name in (
        "corpus",
        "evaluation_sets",
        "teacher",
        "instructions",
        "model",
        "models",
        "prompt_set",
        "tasks",
    )
}
"""What goes in, named by a place: the test makes one called `other`; where nothing is, it is refused."""

ROWS = GIVEN | {name: shown_by(*row) for name, row in VOTED.items()}
ROWS["minutes"] = shown_by("planning/test_within_minutes.py::test_more_minutes_are_longer_trainings", 30)
ROWS |= {f"{section}.{name}": row for section, rows in SECTIONS.items() for name, row in rows.items()}
