"""What votes come to, by hand: preference, ties, agreement, and a lean to one side."""

import pytest

from leanpipe.core.report import Silent
from leanpipe.core.store import REPORT
from leanpipe.evaluation.human.blind_sheets import SheetKey
from leanpipe.evaluation.human.count_votes import CountVotesConfig, CountVotesInputs, count, count_votes
from leanpipe.evaluation.human.preference import share_interval
from leanpipe.evaluation.human.read_votes import Vote, write_votes
from tests.evaluation.human.sheets import blinded, numbered, side_of


def votes_of(key: SheetKey, rater: str, *choices: str) -> list[Vote]:
    """A rater's votes on the items in their order, by whose answer is better; an empty one is none."""
    return [
        Vote(str(item), side_of(key, str(item), choice) if choice in ("first", "second") else choice, rater)
        for item, choice in enumerate(choices, 1)
        if choice
    ]


def test_votes_are_counted_by_model_whatever_side_it_stood_on(tmp_path):
    key = numbered(tmp_path, 5)
    votes = [
        *votes_of(key, "Anna", "second", "second", "tie", "first", ""),
        *votes_of(key, "Ben", "second", "first", "both bad", "first", ""),
    ]
    found = count(votes, key, "base", "tuned")
    # Items are worth 1, 1/2, 1/2, 0; nobody voted on the fifth.
    assert found.all.preference == share_interval([1, 0.5, 0.5, 0]) and found.unvoted == 1
    assert found.all.outcomes == {"second": 3, "first": 3, "tie": 1, "both bad": 1}
    assert found.raters["Anna"].preference == share_interval([1, 1, 0.5, 0])
    assert found.agreeing == 0.5 and found.p == 1.0
    # By hand: eight values, 3 + 3 + 1 + 1; 64 - 20 = 44 ordered pairs differ by chance, 2 + 2 were seen.
    assert found.alpha == pytest.approx(1 - 7 * 4 / 44)
    assert "cannot be told which of base and tuned" in found.sentence


def test_a_model_that_all_prefer_is_said_to_be_preferred_from_either_side(tmp_path):
    key = numbered(tmp_path, 20)
    for whose, better in (("second", "tuned is preferred to base"), ("first", "base is preferred to tuned")):
        found = count(votes_of(key, "Anna", *[whose] * 20), key, "base", "tuned")
        assert found.sentence.startswith(better) and found.p < 1e-5
        assert found.all.left.estimate == 0.5  # each stood on the left as often


def test_who_always_says_left_prefers_no_model_and_is_found_out(tmp_path):
    key = numbered(tmp_path, 40)
    found = count([Vote(str(item), "left", "Anna") for item in range(1, 41)], key, "base", "tuned")
    assert found.all.preference.estimate == 0.5 and found.all.left.low > 0.85


def test_prompts_that_both_answered_alike_count_as_ties(tmp_path):
    sheets = blinded(tmp_path, ["a", "same", "b"], ["c", "same", "d"])
    key = SheetKey.read(sheets.path)
    found = count(votes_of(key, "Anna", "second", "second"), key, "base", "tuned")
    assert found.all.preference == share_interval([1, 1, 0.5])


def test_the_report_has_the_verdict_the_raters_the_agreement_and_every_item(tmp_path):
    key = numbered(tmp_path, 6)
    votes = [
        *votes_of(key, "Anna <b>", *["second"] * 6),
        *votes_of(key, "Ben", "first", *["second"] * 5),
        Vote("2", "tie", "Cleo", "so | so"),
    ]
    (tmp_path / "votes.csv").write_text(write_votes(votes, key.sheet))
    out = tmp_path / "counted"
    out.mkdir()
    inputs = CountVotesInputs(tmp_path / "sheets", tmp_path / "votes.csv")
    summary = count_votes.function(CountVotesConfig(first="base", second="tuned $x$"), inputs, out, Silent())
    assert summary["preference"] == pytest.approx((0.5 + 5 / 6 + 4) / 6) and summary["raters"] == 3
    assert summary["krippendorff_alpha"] < 1 and summary["votes"] == 13
    page, text = ((out / REPORT / f"human_evaluation.{kind}").read_text() for kind in ("html", "md"))
    assert "Krippendorff" in text and "so | so" in text and "| Ben | 6 | 83.3%" in text
    assert text.index("tuned") < text.index("## Every item") and "second 6" in text
    assert "<b>" not in page and "data:image/png;base64," in page
    assert (out / REPORT / "preference.png").stat().st_size > 10_000
