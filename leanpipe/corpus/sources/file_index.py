"""Which files a corpus consists of: their names, sizes and digests."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SkipValidation

from leanpipe.core.allowed_paths import Roots, local_path
from leanpipe.core.errors import UserError
from leanpipe.core.files import write_text
from leanpipe.core.store import Artifact
from leanpipe.corpus.sources.content_kind import kind_of_content, says_nothing
from leanpipe.corpus.sources.digest_cache import DigestCache
from leanpipe.corpus.sources.discover import FoundFile, discover_files
from leanpipe.corpus.sources.optional_kinds import NEEDS_EXTRA, is_readable, say_what_needs_extra
from leanpipe.corpus.sources.read_log import ReadLog, Skipped

KINDS = {
    ".txt": "text",
    ".md": "text",
    **{f".{kind}": kind for kind in ("docx", "epub", "ipynb", "odt", "pdf", "rst", "rtf")},
    ".html": "html",
    ".htm": "html",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".eml": "mail",
    ".mbox": "mbox",
    ".warc": "warc",
    ".wet": "warc",
}
"""The reader of each ending of a file name: a file in `leanpipe/corpus/readers/`."""
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")


class SourceFile(BaseModel):
    """A file that can be read. Names of files may hold bytes that are no UTF-8, so pydantic must not look into them."""

    model_config = ConfigDict(frozen=True)

    url: SkipValidation[str]
    """An absolute path on this machine, or a URL that fsspec opens."""
    source: SkipValidation[str]
    """Its path relative to the corpus folder, or its name if the corpus is one file."""
    kind: str
    """Which reader it is for."""
    compression: str = ""
    """`.gz`, `.zst`, `.bz2`, `.xz` or nothing, as its name says; its bytes may say something else."""
    corpus: int = 0
    """Which of the corpora it belongs to."""
    size: int = 0
    """Bytes, as it lies there; 0 where a server does not tell."""
    digest: str = ""
    """SHA-256 of its bytes; for a remote file, of what the file system says by which version it is."""


class FileIndex(BaseModel):
    """The files of a corpus in the order of their names, and what lay beside them."""

    model_config = ConfigDict(frozen=True)

    files: tuple[SourceFile, ...]
    skipped: SkipValidation[tuple[Skipped, ...]] = ()
    reference: SkipValidation[str] = ""
    """The folder, file or URL, as it was given."""

    def artifact(self, name: str, folder: Path) -> Artifact:
        """Write the index into `folder`, as an input of a stage. Its digest is that of the files' contents."""
        digest = file_index_digest(self)
        corpus = self.files[0].corpus if self.files else 0
        path = folder / f"{digest[:32]}-{corpus}.json"
        self.save(path)
        return Artifact(name=name, path=path, digest=digest)

    def save(self, path: Path) -> None:
        """Write the index to `path`, as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.model_dump(), indent=1))  # escapes what is no UTF-8

    @classmethod
    def load(cls, path: Path) -> "FileIndex":
        """Read the index that `save` wrote to `path`."""
        content = json.loads(path.read_text())
        return cls(**content | {"skipped": tuple(Skipped(*one) for one in content["skipped"])})


def index_corpus(
    reference: str, log: ReadLog, roots: Roots | None = None, cache: Path | None = None, corpus: int = 0
) -> FileIndex:
    """List every readable file of a folder, file or URL, in an order that depends on names alone; the rest goes to `log`.

    `cache` is a file that remembers digests between runs. Raises UserError if the corpus does not exist or `roots` do
    not permit it. A file whose name leaves open what is in it is opened, for its first bytes say that.
    """
    before, files = len(log.skipped), []
    with DigestCache(cache) as digests:
        for found, kind, compression in _readable_here(reference, log, roots or Roots()):
            try:
                digest = _digest(found, digests)
            except OSError as error:
                log.skip(found.source, "not readable", error.strerror or error)
                continue
            given = {"kind": kind, "compression": compression, "corpus": corpus}
            files.append(
                SourceFile(url=found.url, source=found.source, size=found.size or 0, digest=digest, **given)
            )
    log.bytes_total += sum(file.size for file in files)
    return FileIndex(files=tuple(files), skipped=tuple(log.skipped[before:]), reference=reference)


def file_index_digest(file_index: FileIndex) -> str:
    """Digest names and contents (SHA-256): the same files have the same digest wherever they lie."""
    digest = hashlib.sha256()
    for file in file_index.files:
        digest.update(json.dumps([file.source, file.digest]).encode())
    return digest.hexdigest()


def check_corpus(references: Sequence[str], roots: Roots | None = None) -> None:
    """Raise UserError unless every corpus exists, is permitted, and has a file that could hold text. Reads no more than
    the first bytes of files whose names do not say what they are."""
    if not references:
        raise UserError("no corpus was given: name at least one folder, file or URL of text")
    for reference in references:
        log = ReadLog()
        if not any(found.size != 0 for found, _, _ in _readable_here(reference, log, roots or Roots())):
            raise UserError(say_what_needs_extra(reference, log.skipped) or _nothing_in(reference, log))


def _readable(reference: str, log: ReadLog, roots: Roots) -> Iterator[tuple[FoundFile, str, str]]:
    """The files of a corpus that a reader knows, each with its kind and compression."""
    roots.check("corpus", reference)
    for found in discover_files(reference, roots, log):
        try:
            kind = _kind(found)
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            log.skip(found.source, "not readable", error.strerror or error)
            continue
        if kind:
            yield found, *kind
        else:
            log.skip(found.source, "unknown kind of file")


def _readable_here(reference: str, log: ReadLog, roots: Roots) -> Iterator[tuple[FoundFile, str, str]]:
    """Leave out files whose package is not installed, and note them."""
    for found, kind, compression in _readable(reference, log, roots):
        if is_readable(kind):
            yield found, kind, compression
        else:
            log.skip(found.source, NEEDS_EXTRA)


def _digest(found: FoundFile, digests: DigestCache) -> str:
    if isinstance(found.version, os.stat_result):
        return digests.digest(found.url, found.version)
    return hashlib.sha256(found.version.encode()).hexdigest()


def _kind(found: FoundFile) -> tuple[str, str] | None:
    """The kind and compression that the name tells, else the first bytes; None if no reader has it."""
    path = Path(found.source)
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    name = path.stem if compression else path.name
    kind = KINDS.get(Path(name).suffix.lower())
    if not kind and says_nothing(name):
        kind = kind_of_content(found.url)
    if kind is None or (kind == "parquet" and compression):
        return None
    return kind, compression


def _nothing_in(reference: str, log: ReadLog) -> str:
    known = f"any of {', '.join(KINDS)} (also .gz, .zst, .bz2 and .xz)"
    path = local_path(reference)
    if path and path.is_file():
        what = "empty" if not path.stat().st_size else "of an unknown kind"
        return f"the corpus {reference} is {what}: give a file with text in it, {known}"
    passed = f" ({len(log.skipped)} others were passed over)" if log.skipped else ""
    return f"the corpus {reference} has no file with text in it{passed}: put files there, {known}"
