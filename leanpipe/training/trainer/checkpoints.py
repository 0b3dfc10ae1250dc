"""Checkpoints that are either whole or not used: transformers loads a torn one without a word.

A checkpoint is written aside, its digests are written down, everything is forced to the disk, and only then is it renamed
to `checkpoint-<step>`. The last two are kept, so that one that is damaged later leaves the one before.
"""

import json
import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from leanpipe.core.files import publish_folder
from leanpipe.core.store import digest_files

log = logging.getLogger(__name__)

_WHOLE = "whole.json"
_KEPT = 2


def aside(folder: Path) -> Path:
    """Return where checkpoints of `folder` are written before they are whole."""
    return folder / ".partial"


def publish(folder: Path, step: int, keep: Collection[int] = ()) -> Path:
    """Give the checkpoint of `step`, which lies aside, its digests and its place; it survives a power cut.

    Older checkpoints are removed but for the one before, and those of the steps `keep`.
    """
    checkpoint = aside(folder) / f"checkpoint-{step}"
    final = folder / checkpoint.name
    publish_sealed(checkpoint, final)
    for other in _newest_first(folder)[_KEPT:]:
        if step_of(other) not in keep:
            shutil.rmtree(other)
    return final


def publish_sealed(partial: Path, final: Path) -> None:
    """Give a folder that was written aside the digests that `is_whole` compares, and its place."""
    (partial / _WHOLE).write_text(json.dumps(digest_files(partial)))
    shutil.rmtree(final, ignore_errors=True)
    publish_folder(partial, final)


def find_whole(folder: Path, before: int | None = None) -> Path | None:
    """Find the newest checkpoint in `folder` whose files are what they were when it was published.

    With `before`, one of an earlier step than that. Those that are damaged or newer are removed.
    """
    shutil.rmtree(aside(folder), ignore_errors=True)
    for checkpoint in _newest_first(folder):
        if before is not None and step_of(checkpoint) >= before:
            shutil.rmtree(checkpoint)
        elif is_whole(checkpoint):
            return checkpoint
        else:
            log.warning("%s is damaged: removed, the one before it is used", checkpoint)
            shutil.rmtree(checkpoint)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is what it was when the checkpoint was published."""
    seal = checkpoint / _WHOLE
    if not seal.exists():
        return False
    try:
        expected = json.loads(seal.read_text())
    except ValueError:
        return False
    actual = digest_files(checkpoint)
    del actual[_WHOLE]
    return actual == expected


def step_of(checkpoint: Path) -> int:
    """Return the step after which the checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
