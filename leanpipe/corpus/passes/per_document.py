"""The first pass: what each document says by itself. A shard is some files; its result is a folder, whole or not there.

Written per shard: `documents.parquet` (what may stay), `account.parquet` (every document), numbers of what may stay for
the second pass (see `Segment`), and `log.json`.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leanpipe.core.files import publish_folder
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.dedup.minhash import signature
from leanpipe.corpus.dedup.word_hashes import shingles, word_hashes
from leanpipe.corpus.document import Document
from leanpipe.corpus.passes.column_files import ColumnWriter
from leanpipe.corpus.readers import read_file
from leanpipe.corpus.rules import Judge, Judged
from leanpipe.corpus.sources.file_index import ReadLog, SourceFile
from leanpipe.corpus.split import SPLITS, split_of
from leanpipe.corpus.tables import ACCOUNT, DOCUMENTS, TableWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EVERY = 50  # documents between two notes of how far the shard is
_REMEMBERED = 1 << 14  # texts whose outcome is remembered: some 15 MB


@dataclass(frozen=True)
class FirstPass:
    """Work for an executor: task i reads shard i."""

    shards: tuple[tuple[SourceFile, ...], ...]
    names: tuple[str, ...]
    """Of the shards' folders."""
    config: CleanConfig
    evaluations: Path | None
    """Index of the evaluation sets."""
    folder: Path

    def __call__(self, task: int) -> None:
        final = self.folder / self.names[task]
        if final.exists():
            return
        partial = final.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        read_shard(self.shards[task], self.config, self.evaluations, partial)
        publish_folder(partial, final)


def make_shards(files: Sequence[SourceFile], megabytes: float) -> tuple[tuple[SourceFile, ...], ...]:
    """Files in their order, until a shard has `megabytes`. The same files give the same shards."""
    shards: list[tuple[SourceFile, ...]] = []
    shard: list[SourceFile] = []
    size = 0
    for file in files:
        if shard and size + file.size > megabytes * 1_000_000:
            shards.append(tuple(shard))
            shard, size = [], 0
        shard.append(file)
        size += file.size
    return (*shards, tuple(shard)) if shard else tuple(shards)


def read_shard(
    files: Sequence[SourceFile], config: CleanConfig, evaluations: Path | None, folder: Path
) -> None:
    """Every document of `files` through every rule that needs no other document. Writes `folder`."""
    folder.mkdir(parents=True)
    log, judge = ReadLog(), Judge(config, evaluations)
    redacted: Counter[str] = Counter()
    with _Writers(folder, config) as writers:
        for number, document in enumerate(_read(files, log, config)):
            redacted.update(writers.write(document, judge))
            if number % _EVERY == 0:
                (folder / "bytes_read").write_text(str(log.bytes_read))
    (folder / "bytes_read").write_text(str(sum(file.size for file in files)))
    (folder / "log.json").write_text(
        json.dumps(
            {
                "skipped": log.skipped,
                "skipped_by_reason": log.skipped_by_reason,
                "repaired": log.repaired,
                "counted": log.counters | Counter({"pages rescued by another parser": judge.rescued}),
                "redacted": redacted,
            }
        )
    )


def _read(files: Sequence[SourceFile], log: ReadLog, config: CleanConfig) -> Iterator[Document]:
    for file in files:
        yield from read_file(file, log, config.read)


class _Writers:
    """The files of one shard."""

    def __init__(self, folder: Path, config: CleanConfig):
        self._config = config
        self._known: dict[tuple[str, bool], dict[str, Any]] = {}
        self._stack = ExitStack()
        self._documents = self._stack.enter_context(TableWriter(folder / "documents.parquet", DOCUMENTS))
        self._account = self._stack.enter_context(TableWriter(folder / "account.parquet", ACCOUNT))
        self._columns = {name: self._column(folder / name) for name in COLUMNS}

    def __enter__(self) -> "_Writers":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, document: Document, judge: Judge) -> dict[str, int]:
        """Judge the document and write what it comes to; returns how much of which personal data was replaced."""
        digest = hashlib.sha256(document.text.encode(errors="surrogatepass")).hexdigest()
        row = {"id": document.id, "source": document.source, "digest": digest}
        if known := self._known.get((digest, document.html)):
            self._account.write(row | known)
            return {}
        judged = judge(document)
        row |= _outcome(document, judged)
        if not judged.fault:
            row["split"] = self._keep(document, judged)
        self._account.write(row)
        self._remember(document, row)
        return judged.redacted

    def _remember(self, document: Document, row: dict[str, Any]) -> None:
        """A text that comes again, as some do a million times, need not be judged again."""
        if len(self._known) == _REMEMBERED:
            self._known.clear()
        columns = {name: row[name] for name in ACCOUNT if name not in ("id", "source", "digest")}
        if not row["rule"]:
            if not self._config.duplicates.exact:
                return
            columns |= {"outcome": "dropped", "rule": "duplicates.exact", "value": 1.0, "split": ""}
            columns |= {"redactions": 0, "detail": f"of {document.id}"}
        self._known[row["digest"], document.html] = columns

    def _keep(self, document: Document, judged: Judged) -> str:
        """Write what the second pass needs to know; returns the split."""
        self._documents.write(
            {"id": document.id, "text": judged.text, "source": document.source, "language": judged.language}
        )
        text_hash = hashlib.sha256(judged.text.encode(errors="surrogatepass")).digest()
        split = split_of(text_hash, self._config.split)
        for name, values in columns_of(document.id, judged.text, text_hash, split, self._config).items():
            self._columns[name].append(values)
        return SPLITS[split]

    def _column(self, path: Path) -> ColumnWriter:
        writer = ColumnWriter(path, COLUMNS[path.name])
        self._stack.callback(writer.close)
        return writer


def _outcome(document: Document, judged: Judged) -> dict[str, Any]:
    """The columns of the account that follow from the document alone."""
    fault = judged.fault
    return {
        "outcome": "dropped" if fault else "",
        "rule": fault.rule if fault else "",
        "value": float(fault.value) if fault else 0.0,
        "split": "",
        "language": judged.language,
        "characters_read": len(document.text),
        "characters": len(judged.text),
        "redactions": sum(judged.redacted.values()),
        "detail": judged.detail if fault else "",
    }


COLUMNS: dict[str, Any] = {
    "ids.s24": "S24",
    "hashes.u64": np.uint64,
    "splits.u8": np.uint8,
    "signatures.u32": np.uint32,
    "paragraphs.u64": np.uint64,
    "paragraph_counts.u32": np.uint32,
    "held_out.u64": np.uint64,
    "held_out_counts.u32": np.uint32,
}
"""What is noted of each document that may stay; see `Segment`. `held_out`: the runs of words of held-out documents."""


def columns_of(id: str, text: str, text_hash: bytes, split: int, config: CleanConfig) -> dict[str, Any]:
    """The values of one document, by column."""
    columns: dict[str, Any] = {
        "ids.s24": [id.encode()],
        "hashes.u64": np.frombuffer(text_hash[:16], np.uint64),
        "splits.u8": [split],
    }
    words: NDArray[np.uint64] = np.empty(0, np.uint64)
    held_out = config.decontaminate.enabled and config.decontaminate.held_out and split > 0
    if config.duplicates.near or held_out:
        words = word_hashes(text)
    if config.duplicates.near:
        runs = shingles(words, config.duplicates.shingle_words)
        columns["signatures.u32"] = signature(runs, config.duplicates.permutations)
    if held_out and len(words) >= config.decontaminate.ngram_words:
        runs = shingles(words, config.decontaminate.ngram_words)
        columns |= {"held_out.u64": runs, "held_out_counts.u32": [len(runs)]}
    if config.duplicates.paragraphs:
        hashes = [
            paragraph_hash(one)
            for one in paragraphs(text)
            if len(one) >= config.duplicates.paragraph_characters
        ]
        columns |= {"paragraphs.u64": hashes, "paragraph_counts.u32": [len(hashes)]}
    return columns


def paragraphs(text: str) -> list[str]:
    """What stands between empty lines."""
    return text.split("\n\n")


def paragraph_hash(paragraph: str) -> int:
    """64 bits of a paragraph, whatever white space is around it."""
    data = paragraph.strip().encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
