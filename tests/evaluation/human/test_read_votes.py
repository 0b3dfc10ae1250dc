"""Votes are read from whatever spreadsheets make of a sheet; what is no vote on it is said in one sentence."""

import pytest

from leanpipe.core.errors import UserError
from leanpipe.evaluation.human.blind_sheets import SheetKey
from leanpipe.evaluation.human.read_votes import FilledSheet, Vote, open_sheets, read_votes, write_votes
from tests.evaluation.human.sheets import numbered


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SheetKey:
    return numbered(tmp_path_factory.mktemp("votes"), 4)


def read(key: SheetKey, *texts: str) -> list[Vote]:
    named = [text.replace("SHEET", key.sheet) for text in texts]
    return read_votes([FilledSheet(f"{n}.csv", text, f"file {n}") for n, text in enumerate(named, 1)], key)


ANNA = [Vote("1", "left", "Anna", "so, so"), Vote("3", "both bad", "Anna"), Vote("4", "tie", "Anna")]


@pytest.mark.parametrize(
    "text",
    [
        'sheet,item,vote,rater,comment\nSHEET,1,left,Anna,"so, so"\nSHEET,2,,Anna,\nSHEET,3,both bad,Anna,\nSHEET,4,tie,Anna,\n',
        '\ufeff"sheet";"item";"vote";"rater";"comment"\r\n"SHEET";"1";"LEFT";"Anna";"so, so"\r\nSHEET;3;Both_Bad;Anna;\r\nSHEET;4; Tie ;Anna;\r\n',
        "Rater\tVote\tItem\tSheet\tComment\nAnna\tLeft\t1\tSHEET\tso, so\nAnna\tboth-bad\t3.0\tSHEET\t\nAnna\ttie\t4\tSHEET\t\n",
        'sep=;\nsheet;item;prompt;left;right;vote;rater;comment\nSHEET;1;"a;\nb";x;y;left;Anna;so, so\nSHEET;3;;;;both  bad;Anna\nSHEET;4;;;;tie;Anna\n\n',
        'item,vote,rater,comment,sheet,mine\n1,left,Anna,"so, so",SHEET,9\n3,both bad,Anna,,SHEET,\n4,tie,Anna,,SHEET\n',
    ],
    ids=["plain", "semicolons", "tabs", "excel", "other order"],
)
def test_a_table_is_read_however_it_was_saved(key: SheetKey, text: str):
    assert read(key, text) == ANNA


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_file_is_read_in_whatever_coding_it_was_saved(key: SheetKey, tmp_path, coding: str):
    path = tmp_path / "Jörg.csv"
    path.write_text(f"sheet,item,vote,rater\n{key.sheet},1,right,Jörg\n{key.sheet},2,tie,\n", encoding=coding)
    votes = read_votes(open_sheets([f" {path} "]), key)
    assert votes == [Vote("1", "right", "Jörg"), Vote("2", "tie", "Jörg")]


def test_votes_may_be_pasted_and_are_written_as_they_are_read(key: SheetKey):
    text = f"sheet,item,vote\n{key.sheet},1,right\n{key.sheet},2,tie\n"
    votes = read_votes(open_sheets(["", text]), key)
    assert [vote.rater for vote in votes] == ["rater 2"] * 2
    assert read_votes(open_sheets([write_votes(votes, key.sheet)]), key) == votes


def test_one_rater_may_be_spelt_in_several_ways(key: SheetKey):
    votes = read(key, "sheet,item,vote,rater\nSHEET,1,left,Anna  B\nSHEET,2,left,anna b\n")
    assert {vote.rater for vote in votes} == {"Anna  B"}


HEADER = "sheet,item,vote,rater\n"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (
            [f"{HEADER}SHEET,9,left,Anna\n"],
            "row 2 of 1.csv is a vote on item 9, which .* does not have: it has 1 to 4",
        ),
        ([f"{HEADER}SHEET,,left,Anna\n"], r"a vote on item \(none\)"),
        (
            [f"{HEADER}SHEET,1,,Anna\n"],
            "no vote in 1.csv: write left, right, tie or both bad into the column vote",
        ),
        ([HEADER], "no vote in 1.csv"),
        ([], "no vote in what was given"),
        (
            [f"{HEADER}SHEET,1,left,Anna\nSHEET,2,the first,Anna\n"],
            "row 3 of 1.csv says 'the first', which is no vote",
        ),
        (
            [f"{HEADER}sheet-0123456789,1,left,Anna\n"],
            "a vote on sheet-0123456789, and these models' answers are on sheet-",
        ),
        ([f"{HEADER},1,left,Anna\n"], "a vote on a sheet without a name"),
        ([f"{HEADER}SHEET,1,left,Anna\n", f"{HEADER}SHEET,1,right,ANNA\n"], "Anna voted 2 times on item 1"),
        (["item,vote\n1,left\n"], "1.csv has no column sheet: keep the first row"),
        (["nothing of the kind\n"], "no column sheet and no column item and no column vote"),
        ([""], "no column sheet"),
    ],
)
def test_what_is_no_vote_on_the_sheet_is_said_in_one_sentence(key: SheetKey, texts: list[str], says: str):
    with pytest.raises(UserError, match=says) as refused:
        read(key, *texts)
    assert "\n" not in str(refused.value)


def test_a_sheet_that_is_not_there_or_no_table_is_refused_by_name(key: SheetKey, tmp_path):
    with pytest.raises(UserError, match="votes: /not/there is no file"):
        open_sheets(["/not/there"])
    with pytest.raises(UserError, match=r"votes: .* is no file"):
        open_sheets([str(tmp_path)])
    (tmp_path / "sheet.xlsx").write_bytes(b"PK\x03\x04\x00\x00 and so on\x00")
    with pytest.raises(UserError, match=r"sheet\.xlsx"):
        read_votes(open_sheets([str(tmp_path / "sheet.xlsx")]), key)


def test_only_permitted_folders_are_read(key: SheetKey, tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sheet.csv").write_text("secret")
    monkeypatch.setenv("LEANPIPE_ROOTS", str(tmp_path / "mine"))
    with pytest.raises(UserError, match="outside the permitted folders"):
        open_sheets([str(tmp_path / "sheet.csv")])
