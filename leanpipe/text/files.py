"""Which files a corpus consists of: walks folders, and says why it passes something over."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from leanpipe.errors import UserError

TEXT, HTML, JSONL, PARQUET = "text", "html", "jsonl", "parquet"
KINDS = {".txt": TEXT, ".md": TEXT, ".html": HTML, ".htm": HTML, ".jsonl": JSONL, ".parquet": PARQUET}
COMPRESSIONS = (".gz", ".zst")


class Skipped(NamedTuple):
    """A file, or a line of one, that could not be read."""

    source: str
    reason: str
    detail: str = ""


@dataclass
class ReadLog:
    """What happened while the corpus was read."""

    skipped: list[Skipped] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    """Sources of the documents whose bytes were no UTF-8."""
    bytes_read: int = 0
    bytes_total: int = 0

    def skip(self, source: str, reason: str, detail: object = "") -> None:
        self.skipped.append(Skipped(source, reason, str(detail)))


class SourceFile(NamedTuple):
    """A file that can be read."""

    path: Path
    source: str
    """Its path relative to the corpus folder, or its name if the corpus is one file."""
    kind: str
    compression: str
    """`.gz`, `.zst` or nothing."""
    corpus: int
    """Which of the corpora it belongs to."""


def check_corpus(paths: Sequence[Path]) -> None:
    """Raise UserError unless every corpus exists and has at least one file that could hold text. Reads no file."""
    if not paths:
        raise UserError("no corpus was given: name at least one folder or file of text")
    for path in paths:
        log = ReadLog()
        if not path.exists():
            raise UserError(f"the corpus {path} does not exist: check the path")
        if not any(file.path.stat().st_size for file in list_files([path], log)):
            raise UserError(_nothing_in(path, log))


def list_files(paths: Sequence[Path], log: ReadLog) -> list[SourceFile]:
    """Every readable file of the corpora, in an order that depends on names alone. The rest goes to `log`."""
    files = []
    for corpus, root in enumerate(paths):
        found = _walk(root, root, set(), log) if root.is_dir() else [root]
        for path in found:
            source = str(path.relative_to(root)) if root.is_dir() else root.name
            if kind := _kind(path):
                files.append(SourceFile(path, source, *kind, corpus))
            else:
                log.skip(source, "unknown kind of file")
    log.bytes_total = sum(file.path.stat().st_size for file in files)
    return files


def _walk(folder: Path, root: Path, seen: set[tuple[int, int]], log: ReadLog) -> Iterator[Path]:
    """Files below `folder`. Links to folders are followed, each folder once, so that a loop of links ends."""
    status = folder.stat()
    seen.add((status.st_dev, status.st_ino))
    for path in sorted(folder.iterdir()):
        source = str(path.relative_to(root))
        if path.name.startswith("."):
            log.skip(source, "hidden")
        elif path.is_dir():
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                log.skip(source, "link to a folder already read")
            elif not os.access(path, os.R_OK | os.X_OK):
                log.skip(source, "not readable", "permission denied")
            else:
                yield from _walk(path, root, seen, log)
        elif path.is_file():
            yield path
        else:
            log.skip(source, "broken link or special file")


def _kind(path: Path) -> tuple[str, str] | None:
    """The kind and compression that the name tells; None if no reader has it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    kind = KINDS.get(suffixes[-1]) if suffixes else None
    if kind is None or (kind == PARQUET and compression):
        return None
    return kind, compression


def _nothing_in(path: Path, log: ReadLog) -> str:
    known = ", ".join(KINDS)
    if path.is_file():
        what = "empty" if not path.stat().st_size else "of an unknown kind"
        return f"the corpus {path} is {what}: give a file with text in it, one of {known} (also .gz and .zst)"
    passed = f" ({len(log.skipped)} others were passed over)" if log.skipped else ""
    return f"the corpus {path} has no file with text in it{passed}: put files there, any of {known} (also .gz and .zst)"
