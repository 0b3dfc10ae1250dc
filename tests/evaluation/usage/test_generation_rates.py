"""Rates of generations, counted by hand."""

import math

import pytest

from leanpipe.evaluation.generate import Generation
from leanpipe.evaluation.usage.generation_rates import (
    generation_rates,
    rate_figures,
    rates_markdown,
)

ANSWERS = [
    Generation("?", "the sea is blue and the sea is blue", 9, False),
    Generation("?", "I'm sorry, I cannot help with that.", 8, True),
]


def test_rates_by_hand():
    rates = {name: rate.value for name, rate in generation_rates(ANSWERS).items()}
    assert rates["answer_tokens"] == 8.5
    # Six phrases of four words in the first answer, one of which ("the sea is blue") stands twice; four in the second.
    assert rates["repetition"] == pytest.approx(1 / 10)
    # the sea is blue and | i'm sorry, i cannot help with that.
    assert rates["distinct_1"] == pytest.approx((5 + 7) / 16)
    # the·sea sea·is is·blue blue·and and·the (three twice: 8 pairs, 5 different) | six pairs
    assert rates["distinct_2"] == pytest.approx((5 + 6) / 14)
    # the·sea·is sea·is·blue is·blue·and blue·and·the and·the·sea (two twice: 7 triples, 5 different) | five triples
    assert rates["distinct_3"] == pytest.approx((5 + 5) / 12)
    assert rates["end_of_turn_rate"] == rates["refusal_rate"] == 0.5


def test_intervals_by_hand():
    rates = generation_rates(ANSWERS)
    # Two values 9 and 8: mean 8.5, standard error 0.5, t of one degree of freedom 12.706.
    assert rates["answer_tokens"].high == pytest.approx(8.5 + 12.706 * 0.5, abs=1e-3)
    # Wilson's interval of 1 of 2, as in R's prop.test(1, 2, correct=FALSE).
    assert rates["refusal_rate"][1:] == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert all(0 <= rate.low <= rate.value <= rate.high for rate in rates.values())
    none = generation_rates([Generation("?", "yes", 1, False)] * 3)["end_of_turn_rate"]
    assert none.value == 0 and none.low == 0 and none.high == pytest.approx(0.5615, abs=1e-4)


def test_more_prompts_make_it_more_certain():
    few, many = (generation_rates(ANSWERS * times) for times in (4, 40))
    for name in ("answer_tokens", "repetition", "end_of_turn_rate", "refusal_rate"):
        assert many[name].high - many[name].low < (few[name].high - few[name].low) / 2, name


@pytest.mark.parametrize("text", ["", "one", "one two three"])
def test_answers_too_short_for_a_phrase_repeat_nothing(text):
    rates = generation_rates([Generation("?", text, 3, True)])
    assert rates["repetition"].value == 0 and rates["refusal_rate"].value == 0
    assert math.isnan(rates["repetition"].low)


def test_each_way_of_sampling_has_figures_of_its_own_name():
    drawn = [Generation("?", "one", 1, True, "top_p_0.9")]
    figures = rate_figures(ANSWERS + drawn)
    assert figures["greedy_answer_tokens"] == 8.5 and figures["top_p_0.9_answer_tokens"] == 1
    assert len(figures) == 14


def test_a_model_that_answered_nothing_has_no_row():
    answers = {"a": [Generation("?", "yes", 1, True)] * 2, "b": []}
    text = rates_markdown(answers)
    assert "| a | greedy | 2 | 0% (0% to 0%) | 50% " in text and "| b |" not in text
    assert rates_markdown({}) == ""
