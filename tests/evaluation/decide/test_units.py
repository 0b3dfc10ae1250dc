"""Documents that belong together are one unit: intervals widen, and too few groups decide nothing."""

from pathlib import Path

import pandas
import pytest

from leanpipe.core.errors import UserError
from leanpipe.evaluation.decide.units import EACH_DOCUMENT, Units, read_units
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.paired import paired_difference
from leanpipe.evaluation.verdict import Look, Outcome, judge
from tests.evaluation.scores import evaluated

SOURCES = {"0": "a/x.jsonl#1", "1": "a/x.jsonl#2", "2": "a/y.txt", "3": "b/z.txt"}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    (tmp_path / "test").mkdir()
    rows = [{"id": id, "text": "-", "source": source, "language": "en"} for id, source in SOURCES.items()]
    pandas.DataFrame(rows).to_parquet(tmp_path / "test" / "00000.parquet")
    return tmp_path


def test_the_unit_is_what_a_person_says(documents: Path, tmp_path: Path):
    unit = RegisterConfig(unit="file").unit
    assert read_units(unit, documents).groups == {
        "0": "a/x.jsonl",
        "1": "a/x.jsonl",
        "2": "a/y.txt",
        "3": "b/z.txt",
    }
    assert set(read_units("folder", documents).groups.values()) == {"a", "b"}
    assert read_units("document", documents) == EACH_DOCUMENT
    table = tmp_path / "authors.csv"
    table.write_text("source,group\na/x.jsonl,Ann\na/y.txt,Ben\nb/z.txt,Ann\n")
    assert read_units(str(table), documents).groups == {"0": "Ann", "1": "Ann", "2": "Ben", "3": "Ann"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "neither document, file nor folder, nor a CSV file that can be read"),
        ("name,group\na,b\n", "lacks the column source"),
        ("source,group\na/x.jsonl,Ann\n", "has no group for 2 held-out documents"),
    ],
)
def test_a_table_of_groups_that_cannot_be_used_is_one_sentence(
    documents: Path, content: str | None, said: str
):
    table = documents / "groups.csv"
    if content:
        table.write_text(content)
    with pytest.raises(UserError, match=said):
        read_units(str(table), documents)


def test_what_is_alike_in_a_group_makes_the_difference_less_certain():
    """Ten copies of three documents say no more than three documents."""
    few_ours, few_theirs = evaluated([(90.0, 100), (96.0, 100), (80.0, 100)]), evaluated([(100.0, 100)] * 3)
    ours, theirs = evaluated([(90.0, 100), (96.0, 100), (80.0, 100)] * 10), evaluated([(100.0, 100)] * 30)
    groups = {str(number): str(number % 3) for number in range(30)}
    many = paired_difference(ours, theirs, list(groups), 0.95, groups)
    few = paired_difference(few_ours, few_theirs, ["0", "1", "2"], 0.95)
    assert (many.low, many.high) == pytest.approx((few.low, few.high))
    assert many.documents == 30 and many.units == 3


def test_so_many_documents_of_few_groups_decide_nothing():
    ours, theirs = evaluated([(90.0 + n % 2, 100) for n in range(40)]), evaluated([(100.0, 100)] * 40)
    look = Look.first(RegisterConfig())
    assert judge(ours, theirs, RegisterConfig(), look=look).outcome is Outcome.PROMOTE
    by_author = Look(look.level, Units({str(n): str(n % 4) for n in range(40)}, "groups"))
    verdict = judge(ours, theirs, RegisterConfig(), look=by_author)
    assert verdict.outcome is Outcome.INCONCLUSIVE and "4 groups are too few" in verdict.reason
