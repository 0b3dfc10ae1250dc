"""Checkpoints that are either whole or not used: transformers loads a torn one without a word."""

import json
import shutil
from pathlib import Path

from leanpipe.store import digest_files, sync

_WHOLE = "whole.json"


def seal(checkpoint: Path) -> None:
    """Write down the digest of every file, then remove older checkpoints beside this one."""
    digests = digest_files(checkpoint)
    for name in digests:
        sync(checkpoint / name)
    (checkpoint / _WHOLE).write_text(json.dumps(digests))
    sync(checkpoint / _WHOLE)
    for other in checkpoint.parent.iterdir():
        if other != checkpoint:
            shutil.rmtree(other)


def find_whole(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` whose files are what they were when it was sealed. Others are removed."""
    found = None
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if found is None and _is_whole(checkpoint):
            found = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return found


def _is_whole(checkpoint: Path) -> bool:
    seal_file = checkpoint / _WHOLE
    if not seal_file.exists():
        return False
    try:
        expected = json.loads(seal_file.read_text())
    except ValueError:  # torn by a power cut
        return False
    actual = digest_files(checkpoint)
    del actual[_WHOLE]
    return actual == expected


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
