"""Where results live: one folder per result, named by what it was computed from, published whole, checked on reading.

store/<stage>/<key>/            a finished result, with its manifest.json
store/.partial/<stage>-<key>/   a result being computed, or one whose computation was killed and will be resumed
    checkpoints/                in it: what only the computing needs; it goes when the result is published, and never before
store/.damaged/<stage>-<key>-<n>/   a result whose files are not what they were, moved aside for a person to look at
"""

import fcntl
import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from leanpipe.core.files import exclusive, publish_folder, remove_partials

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
REPORT = (
    "report"  # pictures, tables and metrics for people: they carry timings, so they do not count as content
)
CHECKPOINTS = "checkpoints"
"""The folder in a partial result that a killed computation goes on from. It is no part of what is published."""

_READ_TOGETHER = {".parquet", ".npy", ".json"}
"""Suffixes of which stages read every file of a folder, whatever its name."""


class Artifact(BaseModel):
    """A reference to files that a stage reads or wrote. This, never the data, travels between tasks."""

    model_config = ConfigDict(frozen=True)

    name: str
    """The stage that made it, or what a person called it (a path, a hub id)."""
    path: Path
    digest: str
    """SHA-256 over the content: the same files have the same digest wherever they lie."""
    key: str | None = None
    """What it was computed from; None for what came from outside."""
    summary: dict[str, Any] = {}
    """Headline figures of the stage that made it."""
    seconds: float = 0.0
    """How long the stage took when it was computed, over all attempts."""
    attempts: int = 1
    """How often it was begun until it was finished."""
    peak_memory: int = 0
    """Bytes at the stage's peak: of the device if it used one, else of its process."""

    def inside(self, folder: str) -> "Artifact":
        """A folder within this result, for a stage that needs only that."""
        return self.model_copy(
            update={"path": self.path / folder, "digest": digest_json([self.digest, folder])}
        )


class Manifest(BaseModel):
    """What `manifest.json` holds."""

    stage: str
    key: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    files: dict[str, str]
    """SHA-256 of every file, by its path in the folder."""
    summary: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    """Over all attempts, the time between them left out."""
    attempts: int = 1
    """How often it was begun: each after the first resumed what the one before left."""
    peak_memory: int
    """Bytes at the peak of all attempts with these settings."""
    device: str = ""
    """The device that computed it (`device.model`); empty for a stage that needs none, and in manifests of old."""


def digest_file(path: Path) -> str:
    """Compute the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_files(root: Path) -> dict[str, str]:
    """SHA-256 of each regular file under `root` (or of `root` itself), by relative path."""
    if root.is_file():
        return {root.name: digest_file(root)}
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): digest_file(path) for path in paths}


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None if there is none at `path`, or if what is there is no manifest."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def find_damage(root: Path, files: Mapping[str, str]) -> str | None:
    """Say which of the `files`, given with their digests, is not what it was under `root`; None if all are.

    Other files are nobody's business: notes that a person laid beside a result damage nothing.
    """
    for name, digest in files.items():
        if not (root / name).is_file():
            return f"{name} is missing"
        if digest_file(root / name) != digest:
            return f"{name} differs from its digest"
    return None


def find_strangers(root: Path, files: Collection[str]) -> list[str]:
    """Name the tables, arrays and settings in a result's folder that lie beside its own, and are none of its `files`.

    Stages read every table of a folder: one more would be learned from, and no digest would tell. Notes and pictures, which
    no stage reads, may lie where they lie.
    """
    kinds = {(path.parent, path.suffix) for path in map(PurePath, files)}
    beside = (path.relative_to(root) for path in root.rglob("*") if path.suffix in _READ_TOGETHER)
    return sorted(
        str(path)
        for path in beside
        if (path.parent, path.suffix) in kinds
        and str(path) not in files
        and str(path) != MANIFEST
        and path.parts[0] != REPORT
    )


class Store:
    """Results by stage and key under `root`."""

    def __init__(self, root: Path):
        self.root = root

    def path(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the result is published. Its content is checked when it is read, by `find`."""
        return (self.path(stage, key) / MANIFEST).exists()

    def find(self, stage: str, key: str) -> Artifact | None:
        """The published result, its files checked against their digests; None if there is none.

        A damaged result is moved aside, so that it is computed again. So is a file alone that stages would take for one of
        the result's.
        """
        path = self.path(stage, key)
        if not path.exists():
            return None
        # Of an attempt that was killed just when it had published.
        shutil.rmtree(_checkpoints_of(self.root / ".partial" / f"{stage}-{key}"), ignore_errors=True)
        manifest = read_manifest(path / MANIFEST)
        if manifest is None:
            damage: str | None = f"{MANIFEST} is missing or cannot be read"
        else:
            damage = find_damage(path, manifest.files)
            if damage is None:
                self._move_strangers(path, manifest)
                return self._artifact(manifest)
        aside = self._move_aside(path)
        log.warning("%s is damaged (%s): moved to %s, it will be computed again", path, damage, aside)
        return None

    def manifests(self, stage: str = "[!.]*") -> Iterator[tuple[Path, Manifest]]:
        """Everything that `stage`, or any stage, has published, with its folder; its files are not checked.

        A result whose manifest cannot be read is passed over: `find` sees to it when it is wanted.
        """
        for path in sorted(self.root.glob(f"{stage}/*/{MANIFEST}")):
            if manifest := read_manifest(path):
                yield path.parent, manifest

    def partial(self, stage: str, key: str) -> Path:
        """The folder in which the result is being computed; what an earlier attempt left is still in it."""
        path = self.root / ".partial" / f"{stage}-{key}"
        path.mkdir(parents=True, exist_ok=True)
        if (aside := _checkpoints_of(path)).exists() and not (path / CHECKPOINTS).exists():
            aside.rename(path / CHECKPOINTS)  # an earlier attempt was killed while it published
        return path

    def publish(self, stage: str, key: str, **facts: Any) -> Artifact:
        """Give the partial result its manifest and its place, in one rename that survives a power cut."""
        partial, final = self.partial(stage, key), self.path(stage, key)
        remove_partials(partial)
        if (partial / CHECKPOINTS).exists():
            (partial / CHECKPOINTS).rename(_checkpoints_of(partial))
        (partial / MANIFEST).unlink(
            missing_ok=True
        )  # of an attempt that was killed just when it would publish
        manifest = Manifest(stage=stage, key=key, files=digest_files(partial), **facts)
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2))
        publish_folder(partial, final)
        shutil.rmtree(_checkpoints_of(partial), ignore_errors=True)
        return self._artifact(manifest)

    def _move_strangers(self, path: Path, manifest: Manifest) -> None:
        for name in find_strangers(path, manifest.files):
            aside = self._free_place(path) / name
            aside.parent.mkdir(parents=True)
            with suppress(FileNotFoundError):  # another process was faster
                (path / name).rename(aside)
                log.warning(
                    "%s is no part of the result and would be taken for one: moved to %s", path / name, aside
                )

    def _move_aside(self, path: Path) -> Path:
        aside = self._free_place(path)
        with suppress(FileNotFoundError):  # another process was faster
            path.rename(aside)
        return aside

    def _free_place(self, path: Path) -> Path:
        """Return the first place for the result `path` in `.damaged` that is free: what was moved before stays."""
        folder = self.root / ".damaged"
        folder.mkdir(exist_ok=True)
        places = (folder / f"{path.parent.name}-{path.name}-{number}" for number in itertools.count(1))
        return next(place for place in places if not place.exists())

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock `name`; the kernel releases it if the process dies."""
        with exclusive(self.root / ".locks" / name):
            yield

    def is_locked(self, name: str) -> bool:
        """Whether some process holds the lock `name` now."""
        path = self.root / ".locks" / name
        if not path.exists():
            return False
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _artifact(self, manifest: Manifest) -> Artifact:
        return Artifact(
            name=manifest.stage,
            path=self.path(manifest.stage, manifest.key),
            digest=content_digest(manifest.files),
            key=manifest.key,
            summary=manifest.summary,
            seconds=manifest.seconds,
            attempts=manifest.attempts,
            peak_memory=manifest.peak_memory,
        )


def _checkpoints_of(partial: Path) -> Path:
    """Where a partial result's checkpoints lie while it is published."""
    return partial.with_name(f"{partial.name}.{CHECKPOINTS}")


def content_digest(files: Mapping[str, str]) -> str:
    """One digest for a result, from those of its files; its manifest and what lies under `report/` do not count."""
    return digest_json(
        {
            name: digest
            for name, digest in files.items()
            if name != MANIFEST and not name.startswith(f"{REPORT}/")
        }
    )


def external(name: str, path: Path, instead: Mapping[str, str] | None = None) -> Artifact:
    """A file or folder that came from outside, referred to by its content.

    All of it counts, whatever its files are called, unless it is a result of ours, which has the digest that the store
    knows it by. Of files in `instead` only what is said there counts, and nothing where that is empty.
    """
    files = digest_files(path)
    for file, counts in (instead or {}).items():
        if files.pop(file, None) and counts:
            files[file] = counts
    ours = read_manifest(path / MANIFEST) is not None
    return Artifact(
        name=name, path=path.resolve(), digest=content_digest(files) if ours else digest_json(files)
    )
