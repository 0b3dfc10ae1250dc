"""A person who can start a run can type any path: what is permitted, and how one might try to get around it."""

from pathlib import Path

import pytest

from leanpipe.core.allowed_paths import VARIABLE, Roots
from leanpipe.core.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A permitted folder `data`, with a folder beside it, and links from the one to the other."""
    for name in ("data/in", "database"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "out").symlink_to(tmp_path / "database")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data" / "loop")
    (tmp_path / "database" / "back").symlink_to(tmp_path / "data" / "in")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "permitted"),
    [
        ("data", True),
        ("data/in", True),
        ("data/not/there/yet", True),
        ("data/in/../in", True),
        ("database/back", True),  # where it leads counts
        ("data/loop", True),  # leads nowhere
        ("", False),
        ("database", False),
        ("data/out", False),
        ("data/../database", False),
        ("data/in/../../database", False),
        ("data\0", False),
    ],
)
def test_paths(folder: Path, place: str, permitted: bool):
    roots = Roots((f"{folder}/data",))
    assert roots.permits(f"{folder}/{place}") is permitted
    assert roots.permits(f"file://{folder}/{place}") is permitted
    assert roots.permits(f"LOCAL://{folder}/{place}") is permitted


@pytest.mark.parametrize(
    ("url", "permitted"),
    [
        ("s3://bucket/data", True),
        ("S3://bucket/data/x.jsonl", True),
        ("s3://bucket/database/x", False),
        ("s3://bucket/data/../secret", False),
        ("s3://bucket/data/%2e%2e/secret", False),
        ("s3://bucket/data/..\\secret", False),
        ("gs://bucket/data", False),
        ("https://good.example/x", True),
        ("https://good.example@evil.example/x", False),
        ("https://good.example.evil.example/x", False),
        ("zip://x::s3://bucket/data/x.zip", False),
        ("s3://bucket/data::file:///etc/passwd", False),
        ("simplecache::file:///etc/passwd", False),
        ("/etc/passwd", False),
        ("file:///etc/passwd", False),
    ],
)
def test_urls(url: str, permitted: bool):
    assert Roots(("s3://bucket/data/", "https://good.example")).permits(url) is permitted


def test_the_environment_says_what_is_permitted(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Roots.from_environment().permits("/etc/passwd")
    monkeypatch.setenv(VARIABLE, " ; ")
    assert Roots.from_environment().permits("/etc/passwd")
    monkeypatch.setenv(VARIABLE, f"{tmp_path}/with space; s3://bucket")
    roots = Roots.from_environment()
    assert roots.permits(f"{tmp_path}/with space/x") and roots.permits("s3://bucket/x")
    with pytest.raises(UserError) as raised:
        roots.check("teacher", "/etc/passwd")
    assert str(raised.value).startswith(
        f"teacher: /etc/passwd lies outside the permitted folders ({tmp_path}/with space, s3://bucket): give a path"
    )


def test_a_relative_path_counts_from_where_one_stands(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    roots = Roots(("data",))
    assert roots.permits("data/in") and not roots.permits("database") and not roots.permits("../x")
