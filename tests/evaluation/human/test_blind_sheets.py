"""Sheets show every answer and tell nothing of whose it is; the key undoes that."""

import csv
import re
from itertools import pairwise

import pytest

from leanpipe.core.errors import UserError
from leanpipe.core.store import REPORT
from leanpipe.evaluation.human.blind_sheets import COLUMNS, SHEET_PAGE, SHEET_TABLE, SheetKey
from tests.evaluation.human.sheets import blinded, numbered

ANSWERS = [f"alpha {number}" for number in range(30)], [f"beta {number}" for number in range(30)]


def rows(sheets) -> list[dict[str, str]]:
    with (sheets.path / REPORT / SHEET_TABLE).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_sheet_shows_both_answers_and_its_key_says_whose_each_is(tmp_path):
    sheets = blinded(tmp_path, *ANSWERS)
    key = SheetKey.read(sheets.path)
    assert len(key.items) == 30 and tuple(rows(sheets)[0]) == COLUMNS
    for row, one in zip(rows(sheets), key.items, strict=True):
        assert {row["left"], row["right"]} == {one.first, one.second} and one.first.startswith("alpha")
        assert row["left"] == (one.first if one.left == "first" else one.second)
        assert one.preferred("left") == one.left != one.preferred("right")
        assert one.preferred("tie") == "tie" and one.preferred("both bad") == "both bad"
        assert row["vote"] == row["rater"] == row["comment"] == ""


def test_each_model_stands_on_the_left_as_often_in_an_order_that_the_seed_decides(tmp_path):
    orders = [
        [one.left for one in numbered(tmp_path / str(n), 30, seed).items] for n, seed in enumerate((0, 0, 1))
    ]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert order.count("first") == 15
        assert 5 < sum(a != b for a, b in pairwise(order)) < 25  # neither blocks nor by turns


def test_nothing_that_raters_are_given_says_whose_answer_is_where(tmp_path):
    """With the models exchanged the page and the table have the same answers, and neither the word first nor second."""
    sheets = blinded(tmp_path, *ANSWERS)
    page, table = ((sheets.path / REPORT / name).read_text() for name in (SHEET_PAGE, SHEET_TABLE))
    assert not re.search(
        r"\b(first|second|key\.json)\b", page.partition('id="data">')[2].partition("<script>")[0]
    )
    assert not re.search(r"\b(first|second)\b", table)
    assert (sheets.path / "key.json").exists() and not list((sheets.path / REPORT).glob("key*"))


def test_answers_that_are_alike_are_not_asked_about(tmp_path):
    key = SheetKey.read(blinded(tmp_path, ["yes", "no ", "b"], ["yes", "no", "c"]).path)
    assert key.identical == ("Question 1?", "Question 2?") and [one.prompt for one in key.items] == [
        "Question 3?"
    ]
    with pytest.raises(UserError, match="same answer to each of the 2 prompts"):
        blinded(tmp_path / "all", ["a", "b"], ["a", "b"])


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@now", "\tx"])
def test_no_spreadsheet_computes_what_a_model_wrote(tmp_path, cell):
    (row,) = rows(blinded(tmp_path, [f"{cell} "], ["plain"]))
    # Spaces around an answer are no part of it.
    assert not {row["left"][:1], row["right"][:1]} & set("=+-@\t")
    assert cell.strip() in row["left"] + row["right"]


def test_a_sheets_name_is_of_what_it_shows_and_no_spreadsheet_takes_it_for_a_number(tmp_path):
    names = [numbered(tmp_path / str(number), number).sheet for number in range(1, 6)]
    assert len(set(names)) == 5 and all(re.fullmatch(r"sheet-[0-9a-f]{10}", name) for name in names)
