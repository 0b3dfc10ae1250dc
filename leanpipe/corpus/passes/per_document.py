"""The first step of cleaning: what each document says by itself.

A shard is some files; its result is a folder, whole or not there, of `documents.parquet` (what may stay),
`account.parquet` (every document), the columns of what may stay (see `document_columns`), and `log.json`.
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

from leanpipe.core.files import publish_folder
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.document import Document
from leanpipe.corpus.earlier_splits import STAYED, EarlierSplits
from leanpipe.corpus.passes.document_columns import Columns
from leanpipe.corpus.readers import read_file
from leanpipe.corpus.rules import CheckedDocument, DocumentRules
from leanpipe.corpus.sources.file_index import ReadLog, SourceFile
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.tables import ACCOUNT, DOCUMENTS, TableWriter

if TYPE_CHECKING:
    pass

_EVERY = 50  # documents between two notes of how far the shard is
_REMEMBERED = 1 << 14  # texts whose outcome is remembered: some 15 MB


@dataclass(frozen=True)
class PerDocumentPass:
    """The first pass as work for an executor: task i reads shard i."""

    shards: tuple[tuple[SourceFile, ...], ...]
    names: tuple[str, ...]
    """Of the shards' folders."""
    config: CleanConfig
    evaluation_index: Path | None
    """Where the index of the evaluation sets is."""
    folder: Path
    earlier: Path | None = None
    """Where the splits of earlier corpora are (see `EarlierSplits`)."""

    def __call__(self, task: int) -> None:
        final = self.folder / self.names[task]
        if final.exists():
            return
        partial = final.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        earlier = EarlierSplits.load(self.earlier) if self.earlier else None
        read_shard(self.shards[task], self.config, self.evaluation_index, partial, earlier)
        publish_folder(partial, final)


def make_shards(files: Sequence[SourceFile], megabytes: float) -> tuple[tuple[SourceFile, ...], ...]:
    """Group files, in their order, until a shard has `megabytes`. The same files give the same shards."""
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
    files: Sequence[SourceFile],
    config: CleanConfig,
    evaluation_index: Path | None,
    folder: Path,
    earlier: EarlierSplits | None = None,
) -> None:
    """Put every document of `files` through every rule that needs no other document, and write `folder`."""
    # Read, check and write, a document at a time.
    folder.mkdir(parents=True)
    log, rules = ReadLog(), DocumentRules(config, evaluation_index)
    redacted: Counter[str] = Counter()
    with _Writers(folder, config, earlier) as writers:
        for number, document in enumerate(_read(files, log, config)):
            redacted.update(writers.write(document, rules))
            if number % _EVERY == 0:
                (folder / "bytes_read").write_text(str(log.bytes_read))
        if earlier:
            log.counters[STAYED] = writers.stayed

    # How far the shard is, for the last time, and what happened while reading.
    (folder / "bytes_read").write_text(str(sum(file.size for file in files)))
    (folder / "log.json").write_text(
        json.dumps(
            {
                "skipped": log.skipped,
                "skipped_by_reason": log.skipped_by_reason,
                "repaired": log.repaired,
                "met": {"records": log.records, "documents": log.documents},
                "unaccounted": log.unaccounted,
                "counted": log.counters + writers.counted,
                "redacted": redacted,
            }
        )
    )


def _read(files: Sequence[SourceFile], log: ReadLog, config: CleanConfig) -> Iterator[Document]:
    for file in files:
        yield from read_file(file, log, config.read)


class _Writers:
    """The files of one shard."""

    def __init__(self, folder: Path, config: CleanConfig, earlier: EarlierSplits | None):
        self._config = config
        self._known: dict[tuple[str, bool], tuple[dict[str, Any], tuple[str, ...]]] = {}
        self.counted: Counter[str] = Counter()
        """What is counted of the documents that were written, beside their outcomes."""
        self._stack = ExitStack()
        self._documents = self._stack.enter_context(TableWriter(folder / "documents.parquet", DOCUMENTS))
        self._account = self._stack.enter_context(TableWriter(folder / "account.parquet", ACCOUNT))
        self._columns = self._stack.enter_context(Columns(folder, config, earlier))

    def __enter__(self) -> "_Writers":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, document: Document, rules: DocumentRules) -> dict[str, int]:
        """Check the document and write what it comes to; returns how much of which personal data was replaced."""
        # A text that was met before has its outcome already.
        digest = hashlib.sha256(document.text.encode(errors="surrogatepass")).hexdigest()
        row = {"id": document.id, "source": document.source, "digest": digest}
        if known := self._known.get((digest, document.html)):
            self._account.write(row | known[0])
            self.counted.update(known[1])
            return {}

        # Others go through the rules. What may stay is noted for the second pass, which decides its outcome.
        checked = rules.first_fault(document)
        self.counted.update(checked.counted)
        row |= _outcome(checked)
        if not checked.faults:
            row["split"] = self._keep(checked)
        self._account.write(row)
        self._remember(checked, row)
        return checked.redacted

    @property
    def stayed(self) -> int:
        """How many documents stay where an earlier corpus had them, although these shares say otherwise."""
        return self._columns.stayed

    def _remember(self, checked: CheckedDocument, row: dict[str, Any]) -> None:
        """A text that comes again, as some do a million times, need not be judged again."""
        if len(self._known) == _REMEMBERED:
            self._known.clear()
        columns = {name: row[name] for name in ACCOUNT if name not in ("id", "source", "digest")}
        if not row["rule"]:
            if not self._config.duplicates.exact:
                return
            columns |= {"outcome": "dropped", "rule": "duplicates.exact", "value": 1.0, "split": ""}
            columns |= {"redactions": 0, "detail": f"of {checked.document.id}"}
        self._known[row["digest"], checked.document.html] = columns, checked.counted

    def _keep(self, checked: CheckedDocument) -> str:
        """Write what the second pass needs to know; returns the split."""
        id, text, source = checked.document.id, checked.text, checked.document.source
        self._documents.write({"id": id, "text": text, "source": source, "language": checked.language})
        return SPLITS[self._columns.append(id, text, checked.document.text)]


def _outcome(checked: CheckedDocument) -> dict[str, Any]:
    """The columns of the account that follow from the document alone."""
    fault = checked.faults[0] if checked.faults else None
    return {
        "outcome": "dropped" if fault else "",
        "rule": fault.rule if fault else "",
        "value": float(fault.value) if fault else 0.0,
        "split": "",
        "language": checked.language,
        "characters_read": len(checked.document.text),
        "characters": len(checked.text),
        "redactions": sum(checked.redacted.values()),
        "detail": checked.details[fault.rule] if fault else "",
    }
