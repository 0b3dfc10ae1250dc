"""Which tests `make quick` runs, in a small repository made for it."""

import subprocess
from pathlib import Path

import pytest

from tests import changed, house
from tests.conftest import LONGEST

FILES = {
    "leanpipe/corpus/__init__.py": "",
    "leanpipe/corpus/clean.py": "def clean(): ...",
    "leanpipe/corpus/split.py": "def split(): ...",
    "flows/distill.py": "",
    "tests/corpus/test_clean.py": "",
    "tests/corpus/test_huge.py": "def test():\n    from leanpipe.corpus.clean import clean",
    "tests/corpus/test_split.py": "from leanpipe.corpus import split",
    "tests/flows/test_distill.py": "from tests.material import text",
    "tests/flows/test_end_to_end.py": "import leanpipe.corpus.clean",
    "tests/material.py": "text = ''",
}


def commit(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "add", "--all")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "more")


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, FILES)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "chosen", "slow"),
    [
        ("leanpipe/corpus/clean.py", ["tests/corpus/test_clean.py", "tests/corpus/test_huge.py"], 1),
        ("leanpipe/corpus/split.py", ["tests/corpus/test_split.py"], 0),
        ("leanpipe/corpus/__init__.py", [], 0),
        ("flows/distill.py", ["tests/flows/test_distill.py"], 0),
        ("tests/material.py", ["tests/flows/test_distill.py"], 0),
        ("tests/corpus/test_huge.py", ["tests/corpus/test_huge.py"], 0),
        ("tests/flows/test_end_to_end.py", [], 1),
        ("README.md", [], 0),
    ],
)
def test_the_tests_of_a_changed_file(repository: Path, file: str, chosen: list[str], slow: int):
    expected = changed.Choice(chosen, ["tests/flows/test_end_to_end.py"] * slow)
    assert changed.choose_tests(repository, [file]) == expected


def test_what_changed_on_a_branch_is_what_was_committed_there_and_what_was_not_yet(repository: Path):
    git(repository, "switch", "--quiet", "--create", "branch")
    commit(repository, {"committed.py": ""})
    git(repository, "switch", "--quiet", "main")
    commit(repository, {"elsewhere.py": ""})
    git(repository, "switch", "--quiet", "branch")
    (repository / "flows/distill.py").write_text("changed = 1")
    (repository / "new.py").write_text("")
    (repository / "tests/material.py").unlink()
    assert changed.changed_files(repository) == ["committed.py", "flows/distill.py", "new.py"]


def test_on_main_it_is_the_last_commit(repository: Path):
    commit(repository, {"last.py": ""})
    (repository / "new.py").write_text("")
    assert changed.changed_files(repository) == ["last.py", "new.py"]


@pytest.mark.parametrize(
    ("test", "seconds", "status", "said"),
    [
        ("def test(): pass", 90, 0, "3 passed"),
        ("def test(): assert False", 90, 1, "1 failed"),
        ("import time\ndef test(): time.sleep(90)", 3, 0, "nothing has failed so far"),
    ],
)
def test_it_ends_with_the_first_failure_or_when_time_is_up(
    repository: Path, capfd: pytest.CaptureFixture[str], test: str, seconds: float, status: int, said: str
):
    always = dict.fromkeys(changed.ALWAYS, "def test(): pass")
    commit(repository, always)
    commit(
        repository, {"tests/corpus/test_split.py": test, "tests/flows/test_end_to_end.py": "import nothing"}
    )
    assert changed.run(repository, seconds) == status
    output = capfd.readouterr().out
    assert said in output
    assert "left out for being slow: tests/flows/test_end_to_end.py" in output


def test_the_files_that_are_run_first_are_there():
    assert [file for file in LONGEST if not (house.ROOT / "tests" / file).is_file()] == []
