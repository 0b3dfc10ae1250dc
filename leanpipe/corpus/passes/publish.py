"""The third step of cleaning: its result put together from its shards and an earlier result's, by links, not by copies."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leanpipe.core.files import link_or_copy
from leanpipe.core.store import MANIFEST, read_manifest
from leanpipe.corpus.sources.file_index import FileIndex, SourceFile
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.tables import SKIPPED, TableWriter

_HELD = "held.json"
COUNTS = "counts.json"


@dataclass(frozen=True)
class RunFolders:
    """Where one run of `clean` puts what it has on the way to its result."""

    out: Path

    @property
    def work(self) -> Path:
        """The folder of all that is gone at the end."""
        return self.out / ".work"

    @property
    def earlier(self) -> Path:
        """The folder of what earlier results had in which split."""
        return self.work / "earlier"

    @property
    def first(self) -> Path:
        """The folder of the first pass: a folder per shard, what its documents say by themselves."""
        return self.work / "first"

    @property
    def found(self) -> Path:
        """The folder of what `find_duplicates` finds."""
        return self.work / "found"

    @property
    def second(self) -> Path:
        """The folder of the second pass: a folder per shard, what becomes of its documents."""
        return self.work / "second"


@dataclass(frozen=True)
class BaseCorpus:
    """An earlier result of `clean` that a run starts from, and which files it was made of."""

    files: frozenset[tuple[int, str, str]] = frozenset()
    """(corpus, source, digest) of each."""
    shards: tuple[str, ...] = ()
    """Names of its shards."""
    folder: Path | None = None
    """Where it lies; None if there is none."""
    test: float | None = None
    """Least share of the documents of any of its files that was held out for the test; None for results of earlier commits,
    which say it in their settings."""

    @classmethod
    def load(cls, result: Path | None) -> "BaseCorpus":
        """Read which files `result` was made of; without a result there are none."""
        if result is None:
            return cls()
        content = json.loads((result / _HELD).read_text())
        files = frozenset(map(tuple, content["files"]))
        return cls(files, tuple(content["shards"]), result, content.get("test"))

    def has(self, file: SourceFile) -> bool:
        """Whether the result holds this file as it is now."""
        return file_identity(file) in self.files

    def indexes(self) -> tuple[Path, ...]:
        """Return the folders of the columns of its shards (see `Segment`)."""
        return tuple(self.folder / "index" / name for name in self.shards) if self.folder else ()

    def content(self) -> list[str]:
        """List the result's texts, accounts and columns, by their paths in its folder."""
        if self.folder is None:
            return []
        manifest = read_manifest(self.folder / MANIFEST)
        if manifest is None:
            raise FileNotFoundError(f"{self.folder} is no result: it has no manifest")
        folders = tuple(f"{folder}/" for folder in (*SPLITS, "account", "index"))
        return [name for name in manifest.files if name.startswith(folders)]

    def save(self, folder: Path) -> None:
        """Write which files the result in `folder` was made of."""
        content = {"files": sorted(self.files), "shards": self.shards, "test": self.test}
        (folder / _HELD).write_text(json.dumps(content, indent=1))


def publish_result(
    names: Sequence[str], base: BaseCorpus, new: Sequence[SourceFile], folders: RunFolders, test: float
) -> None:
    """Give every shard's files their places in the result, beside those of `base`; of the new ones `test` is the share that
    was held out for the test."""
    # What the earlier result holds, and nothing that was laid beside it since.
    if base.folder:
        for name in base.content():
            _link(base.folder / name, folders.out / name)

    # What this run adds: texts and account from the second pass, and the log of reading from the first.
    for name in names:
        for table in (*SPLITS, "account"):
            _link(folders.second / name / f"{table}.parquet", folders.out / table / f"{name}.parquet")
        _link_all(folders.second / name / "index", folders.out / "index" / name)
        _link(folders.first / name / "log.json", folders.out / "index" / name / "log.json")

    # From which files it was made, for the run that comes after this one.
    files = base.files | {file_identity(file) for file in new}
    least = test if base.test is None else min(test, base.test)
    BaseCorpus(files, (*base.shards, *names), test=least).save(folders.out)


def write_skipped(out: Path, file_indexes: Sequence[FileIndex]) -> None:
    """Write `skipped.parquet`, the files passed over and what in others could not be read, and `counts.json`.

    The latter says how many of them for which reason, how many records the readers came upon, and all else that was
    counted while reading.
    """
    counts = {
        kind: _sum(out, kind) for kind in ("redacted", "counted", "skipped_by_reason", "met", "unaccounted")
    }
    passed_over = Counter(one.reason for file_index in file_indexes for one in file_index.skipped)
    counts["skipped_by_reason"].update(passed_over)
    counts["met"]["records"] += passed_over.total()
    (out / COUNTS).write_text(json.dumps(counts, sort_keys=True))
    with TableWriter(out / "skipped.parquet", SKIPPED) as table:
        for rows in (
            *(file_index.skipped for file_index in file_indexes),
            *(log["skipped"] for log in _logs(out)),
        ):
            for source, reason, detail in rows:
                table.write({"source": source, "reason": reason, "detail": detail})


def _sum(out: Path, kind: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for log in _logs(out):
        counts.update(log[kind])
    return counts


def _logs(out: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((out / "index").glob("*/log.json"))]


def file_identity(file: SourceFile) -> tuple[int, str, str]:
    """Return (corpus, source, digest): which text this is, and where."""
    # As JSON can hold it: names of files may hold bytes that are no UTF-8.
    return file.corpus, file.source.encode(errors="surrogateescape").decode(errors="replace"), file.digest


def _link_all(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            _link(path, target / path.relative_to(source))


def _link(source: Path, target: Path) -> None:
    """The file under another name too, or a copy of it where that cannot be. A file that is not there is none there."""
    if not source.exists() or target.exists():
        return
    link_or_copy(source, target)
