"""Checkpoints that are either whole or not used: transformers loads a torn one without a word.

A checkpoint is written aside, its digests are written down, everything is forced to the disk, and only then is it renamed
to `checkpoint-<step>`. The last two are kept, so that one that is damaged later leaves the one before. The newest that was
found damaged lies in `.damaged`, for a person to look at; it goes with the rest when the training has ended.
"""

import json
import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from leanpipe.core.files import publish_folder
from leanpipe.core.store import digest_files, find_damage

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

    With `before`, one of an earlier step than that; those that are newer are removed. Of damaged ones the newest is moved aside.
    """
    shutil.rmtree(aside(folder), ignore_errors=True)
    moved: Path | None = None
    for checkpoint in _newest_first(folder):
        if before is not None and step_of(checkpoint) >= before:
            shutil.rmtree(checkpoint)
        elif (damage := _damage(checkpoint)) is None:
            return checkpoint
        elif moved is None:
            moved = _move_aside(checkpoint)
            log.warning(
                "%s is damaged (%s): moved to %s, the one before it is used", checkpoint, damage, moved
            )
        else:
            log.warning("%s is damaged too (%s): removed", checkpoint, damage)
            shutil.rmtree(checkpoint)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is what it was when the checkpoint was published."""
    return _damage(checkpoint) is None


def step_of(checkpoint: Path) -> int:
    """Return the step after which the checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)


def _damage(checkpoint: Path) -> str | None:
    """Say what is not as it was when the checkpoint was published; None if all is."""
    try:
        files = json.loads((checkpoint / _WHOLE).read_bytes())
    except (FileNotFoundError, ValueError):
        files = None
    if not files or not isinstance(files, dict):
        return f"{_WHOLE} is missing or cannot be read"
    return find_damage(checkpoint, files)


def _move_aside(checkpoint: Path) -> Path:
    """Keep a damaged checkpoint in the place of the one that was kept before: more would fill the disk."""
    kept = checkpoint.parent / ".damaged"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    return checkpoint.rename(kept / checkpoint.name)
