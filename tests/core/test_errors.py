"""What others raise over what a person gave, or over a disk that is full, becomes one sentence; what we did wrong does not."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest
import safetensors.numpy
import torch
from numpy import zeros

from leanpipe.core.errors import UserError, refused_if_unreadable, sentence_of
from leanpipe.core.report import Silent
from leanpipe.core.store import Store
from leanpipe.processes.run_stage import run_stage
from tests.support.sample_stages import FullDiskConfig, fill_disk
from tests.support.small_disk import SMALL_DISK_BYTES, small_disk

__all__ = ["small_disk"]


@pytest.mark.parametrize(
    "error", [TypeError("x\nmore"), RuntimeError(), RecursionError("deep"), OSError(5, "io")]
)
def test_whatever_is_raised_over_a_file_is_one_sentence(error: Exception):
    with (
        pytest.raises(UserError, match=r"^the model a cannot be read \([^\n]+\): give another$") as caught,
        refused_if_unreadable("the model a", "give another"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("card"), UserError("a sentence")])
def test_memory_that_is_too_small_is_no_fault_of_the_file(error: Exception):
    with pytest.raises(type(error)), refused_if_unreadable("the model a", "give another"):
        raise error


def test_a_stage_that_fills_the_disk_is_one_sentence(small_disk: Path):
    with pytest.raises(UserError, match=r"fill_disk: .*the disk is full: free some"):
        run_stage(
            fill_disk, FullDiskConfig(bytes=2 * SMALL_DISK_BYTES), {"texts": []}, Store(small_disk), Silent()
        )


def test_a_full_disk_is_known_by_what_other_languages_say_of_it(small_disk: Path):
    with pytest.raises(Exception) as written:
        safetensors.numpy.save_file({"a": zeros(SMALL_DISK_BYTES)}, small_disk / "a.safetensors")
    with pytest.raises(sqlite3.OperationalError) as stored:
        sqlite3.connect(small_disk / "b.db").execute("CREATE TABLE b AS SELECT zeroblob(2000000)")
    for caught in (written, stored):
        assert "the disk is full" in (sentence_of(caught.value) or "")


def test_what_no_person_caused_is_no_sentence():
    assert sentence_of(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a")) is None
    assert sentence_of(KeyError("a")) is None
    outer = RuntimeError("could not write")
    outer.__cause__ = PermissionError(errno.EACCES, "Permission denied", "/a")
    assert (sentence_of(outer) or "").startswith("/a: Permission denied (you may not")
