import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from leanpipe.core.errors import UserError
from leanpipe.corpus.report.find_document import (
    CORPUS,
    AccountRow,
    find_by_path,
    find_by_phrase,
    find_exactly,
)
from tests.support.cleaned_corpus import dropped, identity, kept, write_cleaned

ROWS = [
    kept(0xABCDEF0, "Bees dance.\nThe Dance tells where flowers are."),
    kept(2, "Nothing of note.", "test", source="deep/down/notes.txt"),
    kept(3, "First line.", source="pages.jsonl#0"),
    kept(4, "Second line, ÜBER ALL.", "validation", source="pages.jsonl#12"),
    dropped(5, "cheap (pills) cost $5.00", "quality.min_words", 2, source="deep/spam.txt"),
    dropped(6, "", "duplicates.exact", 1, detail=f"of {identity(2)}"),
]
FAR = "x" * 8


@pytest.fixture
def cleaned(tmp_path: Path) -> Path:
    folder = write_cleaned(tmp_path / "cleaned", ROWS)
    return write_cleaned(folder, [kept(7, "In another shard."), kept(8, "the dance again")], shard="00001")


def numbers(rows: Iterator[AccountRow]) -> list[int]:
    return [int(row.id, 16) for row in rows]


def test_a_whole_row_is_found(cleaned: Path):
    (row,) = find_exactly(cleaned, identity(5))
    assert (row.source, row.rule, row.value, row.characters_read) == (
        "deep/spam.txt",
        "quality.min_words",
        2,
        24,
    )


def test_by_the_start_of_a_digest_in_any_case(cleaned: Path):
    digest = hashlib.sha256(b"In another shard.").hexdigest()
    assert numbers(find_exactly(cleaned, digest[:8].upper())) == [7]
    assert numbers(find_exactly(cleaned, digest)) == [7]


def test_seven_digits_are_too_few_to_be_the_start_of_an_id(cleaned: Path):
    assert len(numbers(find_exactly(cleaned, "0" * 8))) == len(ROWS) + 2
    assert numbers(find_exactly(cleaned, "0" * 7)) == []


def test_by_its_source(cleaned: Path):
    assert numbers(find_exactly(cleaned, "deep/down/notes.txt")) == [2]
    assert numbers(find_exactly(cleaned, "pages.jsonl")) == [3, 4]
    assert numbers(find_exactly(cleaned, "pages.jsonl#12")) == [4]
    assert numbers(find_exactly(cleaned, "pages.jsonl#1")) == []


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("/old/place/deep/down/notes.txt", [2]),
        ("place/deep/down/notes.txt", [2]),
        ("notes.txt", [2]),
        ("./spam.txt", [5]),
        ("/data/pages.jsonl", [3, 4]),
        ("s3://bucket/data/pages.jsonl#0", [3]),
        ("otes.txt", []),
        ("", []),
    ],
)
def test_by_the_end_of_a_path(cleaned: Path, typed: str, found: list[int]):
    assert numbers(find_by_path(cleaned, typed)) == found


def test_by_the_place_of_its_file(cleaned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (cleaned / "report").mkdir()
    (cleaned / "report" / CORPUS).write_text(
        json.dumps([str(tmp_path / "docs"), str(tmp_path / "pages.jsonl")])
    )
    assert numbers(find_exactly(cleaned, str(tmp_path / "docs/deep/spam.txt"))) == [5]
    assert numbers(find_exactly(cleaned, str(tmp_path / "pages.jsonl"))) == [3, 4]
    assert numbers(find_exactly(cleaned, f"{tmp_path}/pages.jsonl#12")) == [4]
    assert numbers(find_exactly(cleaned, str(tmp_path / "other/deep/spam.txt"))) == []
    monkeypatch.chdir(tmp_path)
    assert numbers(find_exactly(cleaned, "docs/deep/spam.txt")) == [5]


def test_a_file_that_was_renamed_is_known_by_its_content(cleaned: Path, tmp_path: Path):
    moved = tmp_path / "renamed.txt"
    moved.write_text("In another shard.")
    assert numbers(find_exactly(cleaned, str(moved))) == [7]


@pytest.mark.parametrize(
    ("phrase", "found"),
    [
        ("the dance", [0xABCDEF0, 8]),
        ("dance. the\n dance", [0xABCDEF0]),
        ("über all", [4]),
        ("(PILLS) cost $5.00", [5]),
        ("cost .5", []),
        (f"of {identity(2)}", [6]),
        (" ", []),
        ("[a-z", []),
    ],
)
def test_by_a_phrase_whatever_its_case_and_spaces(cleaned: Path, phrase: str, found: list[int]):
    assert numbers(find_by_phrase(cleaned, phrase, 10)) == found


def test_no_more_kept_documents_are_looked_for_than_are_wanted(cleaned: Path):
    assert len(numbers(find_by_phrase(cleaned, "e", 2))) == 2 + 1  # and the dropped one


def test_a_phrase_is_searched_in_linear_time(tmp_path: Path):
    rows = [kept(number, "a " * 200_000 + "b") for number in range(5)]
    cleaned = write_cleaned(tmp_path / "cleaned", rows)
    assert numbers(find_by_phrase(cleaned, "a " * 400 + "c", 10)) == []
    with pytest.raises(UserError, match="the phrase has 1001 characters"):
        numbers(find_by_phrase(cleaned, "a" * 1001, 10))


def test_what_it_is_a_copy_of(cleaned: Path):
    (copy,) = find_exactly(cleaned, identity(6))
    (spam,) = find_exactly(cleaned, identity(5))
    assert (copy.copy_of, spam.copy_of) == (identity(2), "")
