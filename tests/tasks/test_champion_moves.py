"""The champion moves one step at a time, whoever moves it, and goes back in one: against a real MLflow registry on SQLite."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from tasks.tracking import champion_history
from tasks.tracking.champion import lock
from tasks.tracking.champion.back import RolledBack, roll_back
from tasks.tracking.champion.looks import take_look
from tasks.tracking.champion_history import Move
from tests.flows.servers import ROOT, environment


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_database}")
    yield home
    patch.undo()


def registered(home: Home, name: str, versions: int) -> MlflowClient:
    """A model whose versions were champion one after the other."""
    client = MlflowClient()
    client.create_registered_model(name)
    for number in range(1, versions + 1):
        folder = home.root / name / str(number)
        folder.mkdir(parents=True)
        (folder / "model.txt").write_text(str(number))
        client.create_model_version(name, str(folder))
        before = str(number - 1) if number > 1 else ""
        move = Move(
            time=champion_history.now(), version=str(number), before=before, by="a run", why="-", best="1"
        )
        champion_history.move_champion(client, name, move)
    return client


def moves(name: str) -> list[Move]:
    return champion_history.look(MlflowClient(), name, "a test").moves


def test_two_processes_of_two_homes_leave_one_champion_and_a_history_without_gaps(home: Home, tmp_path: Path):
    client = registered(home, "raced", 4)
    address = f"sqlite:///{home.mlflow_database}"
    racing = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.tasks.race", str(tmp_path / one), "raced", "6"],
            cwd=ROOT,
            env=environment(tmp_path / one) | {"MLFLOW_TRACKING_URI": address},
            stderr=subprocess.PIPE,
            text=True,
        )
        for one in ("one", "other")
    ]
    for process in racing:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    history = moves("raced")
    # Each of the two moved it, after it was set up; nothing was found that the history did not know.
    assert len({move.by for move in history}) == 3, [move.by for move in history]
    assert [move.before for move in history[1:]] == [move.version for move in history[:-1]]
    tags = client.get_registered_model("raced").tags
    assert str(client.get_model_version_by_alias("raced", "champion").version) == history[-1].version
    assert not [tag for tag in tags if tag.startswith("leanpipe.moving.")]


def test_a_lock_that_a_killed_run_left_behind_is_taken_away(home: Home, monkeypatch: pytest.MonkeyPatch):
    client = registered(home, "left", 2)
    client.set_registered_model_tag("left", "leanpipe.moving.killed", '{"choosing":false,"number":1}')
    monkeypatch.setattr(lock, "STALE", 0.5)
    with lock.champion_lock(client, "left") as held:
        held.check()
    assert not [tag for tag in client.get_registered_model("left").tags if "moving" in tag]


def test_who_holds_it_for_too_long_must_begin_again(home: Home, monkeypatch: pytest.MonkeyPatch):
    client = registered(home, "slow", 1)
    with lock.champion_lock(client, "slow") as held:
        monkeypatch.setattr(lock, "STALE", 0.0)
        with pytest.raises(lock.HeldTooLong):
            held.check()


def test_back_goes_to_the_champion_before_and_never_to_one_that_was_taken_back(home: Home):
    registered(home, "back", 3)
    assert roll_back(home, "back", None, "anna", "worse answers") == RolledBack(
        name="back", version="2", before="3"
    )
    assert roll_back(home, "back", None, "anna", "").version == "1"
    history = moves("back")
    assert [(move.before, move.version, move.by_hand) for move in history[-2:]] == [
        ("3", "2", True),
        ("2", "1", True),
    ]
    assert (history[-2].by, history[-2].why, history[-2].best) == ("anna", "worse answers", "2")
    champion = champion_history.look(MlflowClient(), "back", "a test")
    assert champion.taken_back("3") and champion.taken_back("2")
    with pytest.raises(UserError, match="has had no other champion that nobody took the alias from"):
        roll_back(home, "back", None, "anna", "")
    assert roll_back(home, "back", "3", "anna", "it was not the model").version == "3"
    assert not champion_history.look(MlflowClient(), "back", "a test").taken_back("3")


def test_back_after_the_champion_was_deleted(home: Home):
    registered(home, "gone", 2).delete_model_version("gone", "2")
    assert roll_back(home, "gone", None, "anna", "") == RolledBack(name="gone", version="1", before="")


@pytest.mark.parametrize(
    ("name", "to", "said"),
    [
        ("nothing", None, "no model nothing is registered"),
        ("refused", "9", "refused has no version 9"),
        ("refused", "latest", "'latest' is no version of refused"),
        ("refused", "2", "refused version 2 is champion already"),
        ("refused", "1", "the files of refused version 1 are gone"),
        ("refused", None, "the files of refused version 1 are gone.*still version 2"),
    ],
)
def test_back_to_what_cannot_be_served_is_refused_in_a_sentence(home: Home, name: str, to: str, said: str):
    if not MlflowClient().search_registered_models("name = 'refused'"):
        registered(home, "refused", 2)
        shutil.rmtree(home.root / "refused" / "1")
    with pytest.raises(UserError, match=said):
        roll_back(home, name, to, "anna", "")
    assert moves("refused")[-1].version == "2"


def test_every_machine_sees_the_looks_of_a_year(home: Home):
    """A look at the same pair is the same look; each other one finds less left; what is a year old comes back."""
    client, now = registered(home, "looked", 1), datetime(2026, 1, 1, tzinfo=UTC)
    first = take_look(client, "looked", "2 1 text", 0.01, now)
    assert first == pytest.approx(0.01 / 365)
    assert take_look(client, "looked", "2 1 text", 0.01, now + timedelta(days=9)) == first
    second = take_look(client, "looked", "3 1 text", 0.01, now + timedelta(days=1))
    assert second == pytest.approx((0.01 - first) / 365)
    later = take_look(client, "looked", "4 1 text", 0.01, now + timedelta(days=365))
    assert later == pytest.approx((0.01 - second) / 365)
    looks = [tag for tag in client.get_registered_model("looked").tags if tag.startswith("leanpipe.look.")]
    assert len(looks) == 2
