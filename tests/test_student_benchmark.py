"""The student's benchmark: questions are judged without names, and a curve is made of pieces that ran on different days."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import questions, student
from benchmarks.questions import KEY, QUESTIONS, SHEET, Answer, ask, judged, mixed
from tests.support.tiny_models import tiny_model


def row(tokens: int, seed: int, bits: float) -> dict:
    return {
        "tokens": tokens,
        "seed": seed,
        "settings": [],
        "bits_per_byte": bits,
        "nats": [1.0],
        "bytes": [2],
    }


def _keep(place: Path, seed: int) -> None:
    student.FOLDER, student.CURVE = place, place / "curve.json"
    for tokens in range(1, 21):
        student.keep(row(tokens, seed, 1.0))


def test_a_sheet_names_no_model_and_the_key_says_whose_each_answer_is(tmp_path: Path, capsys):
    """By real models, that answer by the stage which asks what is served."""
    models = [
        tiny_model(tmp_path / name / "model", layers=layers) for name, layers in (("one", 1), ("two", 2))
    ]
    ask(models, tmp_path / "sheet")
    sheet, key = (tmp_path / "sheet" / SHEET).read_text(), json.loads((tmp_path / "sheet" / KEY).read_text())
    assert list(key) == ["one/model", "two/model"] and all(len(numbers) == 10 for numbers in key.values())
    assert not any(name in sheet for name in ("one/", "two/", str(tmp_path)))
    assert "one/model: " in capsys.readouterr().out
    rows = list(csv.DictReader(sheet.splitlines()))
    assert {one["question"] for one in rows} == set(QUESTIONS) and not any(one["right"] for one in rows)
    with pytest.raises(SystemExit, match="must be yes or no"):
        judged(tmp_path / "sheet")
    with (tmp_path / "sheet" / SHEET).open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(
            [one | {"right": "yes" if int(one["number"]) in key["two/model"] else "no"} for one in rows]
        )
    judged(tmp_path / "sheet")
    assert "two/model: 10 of 10 answers are right" in capsys.readouterr().out


def test_the_same_answer_is_judged_once_for_all_who_gave_it():
    (question, other), said = list(QUESTIONS)[:2], {}
    said["one"] = [(question, "Paris"), (other, "5")]
    said["two"] = [(question, "Paris"), (other, "4")]
    rows, key = mixed(said)
    assert [one.number for one in rows] == [1, 2, 3] and key["one"][0] == key["two"][0] == 1
    assert {one.answer for one in rows if one.is_accepted} == {"Paris", "4"}
    assert mixed(dict(reversed(said.items())))[0] == rows, "the order would tell whose they are"


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [("It is 4.", True), ("14", False), ("FOUR", False), ("two plus two is four!", True), ("", False)],
)
def test_an_accepted_string_is_words_of_their_own(answer: str, accepted: bool):
    assert Answer(1, "What is two plus two?", answer).is_accepted == accepted


def test_models_of_a_home_are_named_after_what_they_are(tmp_path: Path):
    assert questions.models_of(tmp_path) == {}


def test_pieces_of_a_curve_are_kept_whatever_ran_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each with a budget and a seed; the same piece again takes its own place. The lock keeps threads apart as it does processes."""
    for name in ("FOLDER", "CURVE"):
        monkeypatch.setattr(student, name, tmp_path)  # and back, whatever `_keep` sets
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_keep, [tmp_path] * 2, (0, 1)))
    _keep(tmp_path, 1)
    assert sorted((one["tokens"], one["seed"]) for one in student.read()) == [
        (tokens, seed) for tokens in range(1, 21) for seed in (0, 1)
    ]


def test_a_fit_is_made_of_the_pieces_that_are_there():
    rows = [
        row(tokens, seed, 1.0 + 5 * tokens**-0.3) for tokens in (25_000, 100_000, 400_000) for seed in (0, 1)
    ]
    floor, slope, exponent = student.fit(rows[1:])
    assert (floor, slope, exponent) == pytest.approx((1.0, 5.0, 0.3), rel=1e-3)
