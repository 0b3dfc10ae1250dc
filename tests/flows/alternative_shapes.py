"""Other values of the settings that decide a student's shape."""

from tests.flows.rows import Overrides, Row, shown_by, to

_BUDGET = "shrink/test_budget.py::test_a_number_of_parameters_and_of_megabytes"
_LOW_RANK = "shrink/test_low_rank.py::test"
_SEARCH = "shrink/test_search_shapes.py::test"

SHAPE_BASES: dict[str, Overrides] = {
    "shrink": {},
    "prune": {"sparsity": 0.5},
    "low_rank": {"size": 0.8},
}
SHAPES: dict[str, dict[str, Row]] = {
    "shrink": {
        "size": to(1, 0.01, refused={0.01: "no shape of this teacher has at most"}),
        "parameters": to(100_000),
        "megabytes": to(0.2),
        "width": to(0.5),
        "cut": shown_by(
            "shrink/test_shrink.py::test_what_goes_is_layers_and_channels_or_layers_alone",
            "layers_and_channels",
        ),
        "layers": to(2, 5, refused={5: "is more than the 4"}),
        "mlp_channels": to(128),
        "kv_groups": to(1),
        "hidden_size": to(32, 30, refused={30: "set it to 32"}),
        "initialization": to("random"),
        "keep": to("evenly_spaced", "first_and_last", "divergence"),
        "calibration_tokens": to(32),
        "seed": to(1, initialization="random"),
    },
    "prune": {
        "sparsity": to(0.25),
        "method": to("magnitude"),
        "pattern": to("2:4"),
        "calibration_tokens": to(32),
    },
    "low_rank": {
        "size": to(0.9, 0.1, refused={0.1: "no ranks bring this"}),
        "parameters": to(100_000),
        "megabytes": to(0.2),
        "saved": shown_by(f"{_LOW_RANK}_a_dense_student_is_multiplied_out_after_it_was_factored", "dense"),
        "calibration_tokens": to(32),
    },
    # Not among the bases: each run of it trains several students.
    "search_shapes": {
        **{name: shown_by(f"{_BUDGET}_are_budgets_too", 1) for name in ("size", "parameters", "megabytes")},
        **{
            name: shown_by(f"{_SEARCH}_shapes_of_one_size_are_all_of_that_size", 4)
            for name in ("depths", "kv_groups")
        },
        **{
            name: shown_by(f"{_SEARCH}_how_finalists_learn_is_set", 2)
            for name in ("tokens", "learning_rate", "validation_tokens", "seed")
        },
        **{
            name: shown_by(f"{_SEARCH}_the_best_shape_is_found_after_learning_and_is_told_as_settings", 2)
            for name in ("finalists", "calibration_tokens")
        },
        "max_cost": shown_by(f"{_SEARCH}_a_search_that_would_take_too_long_is_refused_before_any_work", 1.5),
    },
}
