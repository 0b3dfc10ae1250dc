"""Tables that stay tables whatever is written into them."""

import pytest

from leanpipe.core import markdown


def test_a_table_as_github_reads_it():
    rows = [("wheat", 1_000), ("rye", 2.5)]
    assert markdown.table(("corn", "tons"), rows, "lr") == (
        "| corn | tons |\n| --- | ---: |\n| wheat | 1000 |\n| rye | 2.5 |\n"
    )


def test_columns_of_numbers_are_on_the_right_by_themselves():
    rows = [("a", "1,000", "5%", "–"), ("b", "2", "x", "")]
    assert markdown.table("wxyz", rows).splitlines()[1] == "| --- | ---: | --- | ---: |"
    assert markdown.table("w", []) == "| w |\n| --- |\n"


@pytest.mark.parametrize("cell", ["a|b", "a\n| b", "a |\r\n---", "\u2028|", "||||"])
def test_a_cell_can_neither_end_its_row_nor_add_another(cell: str):
    lines = markdown.table(("text", "more"), [(cell, "end")], "ll").splitlines()
    assert len(lines) == 3
    assert lines[2].replace("\\|", "").count("|") == 3


def test_plain_text_is_one_line_without_elements():
    assert markdown.plain("a\n<script>\tb") == "a &lt;script> b"
