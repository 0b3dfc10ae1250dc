"""The table of speeds beyond their medians: a column where any model has the figure, and a dash where another has none."""

from leanpipe.evaluation.report.speed_table import speed_markdown

ROWS = {
    "teacher": {
        "decode_p95_tokens_per_second": 12.25,
        "batch_4_tokens_per_second": 40.0,
        "load_seconds": 0.5,
    },
    "q4_0": {"decode_p95_tokens_per_second": 99.5, "batch_16_tokens_per_second": 1_200.0},
}


def test_each_model_has_a_row_and_sizes_are_in_order():
    text = speed_markdown(ROWS)
    header, _, teacher, form = text.splitlines()[-4:]
    assert header == "| model | decode tok/s, p95 | loading, s | 4 at once, tok/s | 16 at once, tok/s |"
    assert teacher == "| teacher | 12.2 | 0.50 | 40.0 | – |"
    assert form == "| q4_0 | 99.5 | – | – | 1,200.0 |"
    assert "several requests come at once" in text and "J/token" not in text


def test_energy_is_told_where_it_was_counted():
    text = speed_markdown({"a": {"joules_per_token": 0.125}})
    assert "| model | J/token |" in text and "| a | 0.125 |" in text and "at once" not in text


def test_models_without_such_figures_have_no_table():
    assert speed_markdown({"a": {"bits_per_byte": 1.0}}) == ""
