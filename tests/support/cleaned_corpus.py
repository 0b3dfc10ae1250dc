"""A cleaned corpus made by hand, as `clean` would leave it, so that every figure about it is known."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leanpipe.corpus.document import EXCERPT, Document
from leanpipe.corpus.passes.publish import COUNTS
from leanpipe.corpus.tables import ACCOUNT, DOCUMENTS, SKIPPED, TableWriter

Row = Mapping[str, Any]


def kept(number: int, text: str, split: str = "train", **more: Any) -> dict[str, Any]:
    """A document that was kept; `number` is its id."""
    return _row(number, text) | {"outcome": "kept", "split": split, "characters": len(text)} | more


def dropped(number: int, text: str, rule: str, value: float = 0.0, **more: Any) -> dict[str, Any]:
    """A document that `rule` dropped for measuring `value`."""
    return _row(number, text) | {"rule": rule, "value": value, "detail": text[:EXCERPT]} | more


def identity(number: int) -> str:
    """The id of the document with this number."""
    return f"{number:024x}"


def write_cleaned(
    folder: Path,
    rows: Sequence[Row],
    skipped: Sequence[tuple[str, str, str]] = (),
    redacted: Mapping[str, int] | None = None,
    shard: str = "00000",
) -> Path:
    """The rows as one shard of a cleaned corpus in `folder`; those kept carry their text."""
    folder.mkdir(parents=True, exist_ok=True)
    with TableWriter(folder / "account" / f"{shard}.parquet", ACCOUNT) as account:
        for row in rows:
            account.write(row)
    for split in ("train", "validation", "test"):
        with TableWriter(folder / split / f"{shard}.parquet", DOCUMENTS) as documents:
            for row in rows:
                if row["split"] == split:
                    documents.write(row)
    with TableWriter(folder / "skipped.parquet", SKIPPED) as table:
        for source, reason, detail in skipped:
            table.write({"source": source, "reason": reason, "detail": detail})
    reasons = Counter(reason for _, reason, _ in skipped)
    counts = {"redacted": redacted or {}, "counted": {}, "skipped_by_reason": reasons}
    counts |= {"met": {"records": len(rows) + reasons.total(), "documents": len(rows)}, "unaccounted": {}}
    (folder / COUNTS).write_text(json.dumps(counts))
    return folder


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """The documents as one file of a split."""
    with TableWriter(path, DOCUMENTS) as table:
        for one in documents:
            table.write({"id": one.id, "text": one.text, "source": one.source, "language": "en"})


def _row(number: int, text: str) -> dict[str, Any]:
    return {
        "id": identity(number),
        "source": f"{number}.txt",
        "text": text,
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "outcome": "dropped",
        "rule": "",
        "value": 0.0,
        "split": "",
        "language": "en",
        "characters_read": len(text),
        "characters": 0,
        "redactions": 0,
        "detail": "",
    }
