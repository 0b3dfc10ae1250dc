"""What a row of tests/flows/alternatives.py is made of, and the rows that all trainings share."""

import dataclasses
from typing import Any

from leanpipe.core import device

Overrides = dict[str, Any]
"""Settings of one section by their paths in it, such as `quality.min_words`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Other values of one setting."""

    values: tuple[Any, ...]
    base: Overrides
    """What else must be set for it to matter."""
    refused: dict[Any, str]
    """What of the values is refused, and a pattern that the refusal must match."""
    elsewhere: str = ""
    """The test that shows it, where it cannot be seen in what a stage does: `file::function`."""


def to(*values: Any, refused: dict[Any, str] | None = None, **base: Any) -> Row:
    return Row(values, base, refused or {})


def shown_by(test: str, *values: Any) -> Row:
    return Row(values, {}, {}, test)


TRAINING = {
    "learning_rate": to(5e-4),
    "schedule": to("linear", "wsd", "constant"),
    "warmup": to(0.5),
    "batch": to(4),
    "micro_batch": to(1),
    "processes": shown_by("training/trainer/test_processes.py::test_several_processes_train_as_one_does", 2),
    "sharding": shown_by(
        "training/trainer/test_processes.py::test_processes_train_one_model_in_shards", "full"
    ),
    "optimizer": to(
        "adamw_8bit",
        "adafactor",
        "muon",
        "adamw_8bit_paged",
        refused={"adamw_8bit_paged": "adamw_8bit_paged needs a GPU"} if device.name() == "cpu" else {},
    ),
    "weight_decay": to(1.0),
    "max_grad_norm": to(1e-3),
    "precision": to("bf16", "fp16", refused={"fp16": "fp16 needs a GPU"} if device.name() == "cpu" else {}),
    "gradient_checkpointing": to(True),
    "compile": shown_by("training/trainer/test_kernels.py::test_compile_calls_the_compiled_model", True),
    "attention_kernel": shown_by(
        "training/trainer/test_kernels.py::test_the_attention_kernel_that_is_asked_for_is_used",
        "sdpa",
        "flex_attention",
    ),
    "fused_kernels": shown_by(
        "training/trainer/test_kernels.py::test_fused_kernels_are_put_in_where_they_are", False
    ),
    "on_divergence": shown_by(
        "training/trainer/test_guards.py::test_going_back_leaves_out_the_batch_and_reads_the_next", "rewind"
    ),
    "rewinds": shown_by("training/trainer/test_guards.py::test_it_goes_back_only_so_often", 2),
    "spike": shown_by(
        "training/trainer/test_guards.py::test_an_explosion_is_three_steps_far_above_what_was_usual", 6
    ),
    "patience": shown_by(
        "training/trainer/test_guards.py::test_patience_stops_early_with_the_best_weights", 3
    ),
    "validations": to(3),
    "checkpoint_every_steps": to(1),
    "log_every_steps": to(1),
    "seed": to(1),
}
