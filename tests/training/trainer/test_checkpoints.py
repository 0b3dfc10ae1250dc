"""Checkpoints on the disk: which one is whole, and what becomes of one that is not."""

import logging
from pathlib import Path

import pytest

from leanpipe.training.trainer import checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds the last two of three checkpoints."""
    write(tmp_path, 2, 4, 6)
    return tmp_path


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        content = checkpoints.aside(folder) / f"checkpoint-{step}"
        content.mkdir(parents=True)
        (content / "weights").write_text(f"after step {step}")
        checkpoints.publish(folder, step)


def damage(folder: Path, step: int) -> None:
    (folder / f"checkpoint-{step}" / "weights").write_text(f"damaged after step {step}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_was_laid_beside_damages_nothing(folder: Path):
    (folder / "checkpoint-6" / "notes.txt").write_text("the good one")
    assert checkpoints.find_whole(folder) == folder / "checkpoint-6"
    assert (folder / "checkpoint-6" / "notes.txt").read_text() == "the good one"


def test_a_damaged_one_is_moved_aside(folder: Path, caplog: pytest.LogCaptureFixture):
    damage(folder, 6)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.find_whole(folder) == folder / "checkpoint-4"
    kept = folder / ".damaged" / "checkpoint-6"
    assert (kept / "weights").read_text() == "damaged after step 6"
    assert f"weights differs from its digest): moved to {kept}" in caplog.text
    assert names(folder) == [".damaged", "checkpoint-4"]


def test_only_one_is_kept_so_that_the_disk_does_not_fill(folder: Path, caplog: pytest.LogCaptureFixture):
    damage(folder, 4)
    damage(folder, 6)
    assert checkpoints.find_whole(folder) is None
    assert names(folder) == [".damaged"] and names(folder / ".damaged") == ["checkpoint-6"]
    assert "checkpoint-4 is damaged too" in caplog.text
    write(folder, 2, 4)
    damage(folder, 4)
    assert checkpoints.find_whole(folder) == folder / "checkpoint-2"
    assert names(folder / ".damaged") == ["checkpoint-4"]


@pytest.mark.parametrize("seal", ["", "{", "[]", "{}", "[1]", "5", "null"])
def test_one_whose_digests_cannot_be_read_is_damaged(folder: Path, seal: str):
    (folder / "checkpoint-6" / "whole.json").write_text(seal)
    assert checkpoints.find_whole(folder) == folder / "checkpoint-4"
