"""Rates of generations, counted by hand."""

import pytest

from leanpipe.evaluation.generate import Generation
from leanpipe.evaluation.report.generation_rates import generation_rates, rates_markdown


def test_rates_by_hand():
    rates = generation_rates(
        [
            Generation("?", "the sea is blue and the sea is blue", 9, False),
            Generation("?", "I'm sorry, I cannot help with that.", 8, True),
        ]
    )
    assert rates.answers == 2 and rates.words == (9 + 7) / 2
    # Six phrases of four words in the first answer, one of which ("the sea is blue") stands twice; four in the second.
    assert rates.repetition == pytest.approx(1 / 10)
    # the sea is blue and | i'm sorry, i cannot help with that.
    assert rates.distinct_1 == pytest.approx((5 + 7) / 16)
    # the·sea sea·is is·blue blue·and and·the (three twice: 8 pairs, 5 different) | six pairs
    assert rates.distinct_2 == pytest.approx((5 + 6) / 14)
    assert rates.ended == rates.refused == 0.5


@pytest.mark.parametrize("text", ["", "one", "one two three"])
def test_answers_too_short_for_a_phrase_repeat_nothing(text):
    rates = generation_rates([Generation("?", text, 3, True)])
    assert rates.repetition == 0 and rates.refused == 0


def test_a_model_that_answered_nothing_has_no_row():
    text = rates_markdown({"a": [Generation("?", "yes", 1, True)], "b": []})
    assert "| a | 1 | 1.0 | 0% | 100% | 0% | 100% | 0% |" in text and "| b |" not in text
    assert rates_markdown({}) == ""
