"""The result of cleaning, put together from its shards and from what an earlier result holds: by links, not by copies."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leanpipe.core.files import link_or_copy
from leanpipe.corpus.sources.file_index import Listing, SourceFile
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.tables import SKIPPED, TableWriter

_HELD = "held.json"
COUNTS = "counts.json"


@dataclass(frozen=True)
class Places:
    """Where the parts of one run lie."""

    out: Path

    @property
    def work(self) -> Path:
        """All that is gone at the end."""
        return self.out / ".work"

    @property
    def first(self) -> Path:
        """A folder per shard: what its documents say by themselves."""
        return self.work / "first"

    @property
    def found(self) -> Path:
        """What repeats what."""
        return self.work / "found"

    @property
    def second(self) -> Path:
        """A folder per shard: what becomes of its documents."""
        return self.work / "second"


@dataclass(frozen=True)
class Held:
    """Which files an earlier result was made of."""

    files: frozenset[tuple[int, str, str]] = frozenset()
    """(corpus, source, digest) of each."""
    shards: tuple[str, ...] = ()

    @classmethod
    def load(cls, result: Path | None) -> "Held":
        """Of a result of `clean`; of none, nothing."""
        if result is None:
            return cls()
        content = json.loads((result / _HELD).read_text())
        return cls(frozenset(map(tuple, content["files"])), tuple(content["shards"]))

    def has(self, file: SourceFile) -> bool:
        return identity(file) in self.files

    def save(self, folder: Path) -> None:
        content = {"files": sorted(self.files), "shards": self.shards}
        (folder / _HELD).write_text(json.dumps(content, indent=1))


def assemble(
    names: Sequence[str], held: Held, new: Sequence[SourceFile], base: Path | None, places: Places
) -> None:
    """Give every shard's files their places in the result, beside those of `base`."""
    if base:
        for folder in (*SPLITS, "account", "index"):
            _link_all(base / folder, places.out / folder)
    for name in names:
        for table in (*SPLITS, "account"):
            _link(places.second / name / f"{table}.parquet", places.out / table / f"{name}.parquet")
        _link_all(places.second / name / "index", places.out / "index" / name)
        _link(places.first / name / "log.json", places.out / "index" / name / "log.json")
    files = held.files | {identity(file) for file in new}
    Held(files, (*held.shards, *names)).save(places.out)


def write_skipped(out: Path, listings: Sequence[Listing]) -> None:
    """`skipped.parquet`: the files that were passed over, and what in the others could not be read. `counts.json`: how
    many of them for which reason, and all else that was counted while reading."""
    counts = {kind: _sum(out, kind) for kind in ("redacted", "counted", "skipped_by_reason")}
    counts["skipped_by_reason"].update(one.reason for listing in listings for one in listing.skipped)
    (out / COUNTS).write_text(json.dumps(counts, sort_keys=True))
    with TableWriter(out / "skipped.parquet", SKIPPED) as table:
        for rows in (*(listing.skipped for listing in listings), *(log["skipped"] for log in _logs(out))):
            for source, reason, detail in rows:
                table.write({"source": source, "reason": reason, "detail": detail})


def _sum(out: Path, kind: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for log in _logs(out):
        counts.update(log[kind])
    return counts


def _logs(out: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((out / "index").glob("*/log.json"))]


def identity(file: SourceFile) -> tuple[int, str, str]:
    """(corpus, source, digest): which text this is, and where."""
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
