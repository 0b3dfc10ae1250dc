"""Other values of the settings of a human evaluation, each with the test that shows that it counts."""

from typing import Any

_ANSWERED = (
    "evaluation/human/test_answer_prompts.py::test_prompts_and_longest_answers_are_those_that_are_asked_for"
)
_ORDER = "evaluation/human/test_blind_sheets.py::test_each_model_stands_on_the_left_as_often_in_an_order_that_the_seed_decides"

# Answers are shown by tests of their own: a fingerprint of them would take longer and say no more.
HUMAN: dict[str, dict[str, tuple[Any, ...]]] = {
    "answer_prompts": {"prompts": (_ANSWERED, ("What is a list?",)), "max_new_tokens": (_ANSWERED, 9)},
    "blind_sheets": {"seed": (_ORDER, 1)},
}
VOTED: dict[str, tuple[Any, ...]] = {
    "votes": ("flows/test_deployments.py::test_votes_that_are_given_are_not_asked_for", ("a.csv",)),
    "wait_hours": ("flows/test_deployments.py::test_votes_are_waited_for_wait_hours", 1.0),
}
"""Settings of the flow itself."""
