"""Which documents are in which split of a cleaned corpus, as digests: enough to tell whether two corpora share any.

A document has two: of its text as it was read, which stays the same whatever cleaning does with it, and of its text as
cleaning left it, which stays the same whatever was around it. Either of them tells that it is the same document. They are
read from what every result of `clean` holds, those of earlier commits included.
"""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from leanpipe.corpus.dedup.column_files import read_column
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.tables import read_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Members(NamedTuple):
    """The documents that a shard of a cleaned corpus kept."""

    ids: list[str]
    digests: "NDArray[np.uint64]"
    """The first 8 bytes of the SHA-256 of each text, as it was read and as it was cleaned: shape (n, 2)."""
    splits: "NDArray[np.uint8]"
    """Places in `SPLITS`: shape (n,)."""


def digest_text(text: str) -> int:
    """Return the first 8 bytes of a text's SHA-256, as `Members` has it."""
    sha = hashlib.sha256(text.encode(errors="surrogatepass"))
    return int.from_bytes(sha.digest()[:8], "little")


def read_members(documents: Path) -> Iterator[Members]:
    """Read, a shard at a time, what the result of `clean` in the folder `documents` kept, in which split."""
    for path in sorted((documents / "account").glob("*.parquet")):
        yield _members(path, documents / "index" / path.stem)


def split_digests(documents: Path, splits: Collection[str] = SPLITS) -> "NDArray[np.uint64]":
    """Return the digests, in rising order, of all documents in these splits of the result of `clean` in `documents`."""
    wanted = [SPLITS.index(split) for split in splits]
    found = [shard.digests[np.isin(shard.splits, wanted)].ravel() for shard in read_members(documents)]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *found]))


def find_members(documents: Path, split: str, digests: "NDArray[np.uint64]") -> list[str]:
    """Name, by their ids, the documents in one split of a result of `clean` of which one digest is among `digests`."""
    return [
        shard.ids[row]
        for shard in read_members(documents)
        for row in np.flatnonzero(
            np.isin(shard.digests, digests).any(1) & (shard.splits == SPLITS.index(split))
        )
    ]


def _members(account: Path, index: Path) -> Members:
    ids: list[str] = []
    read: list[bytes] = []
    splits: list[int] = []
    for batch in read_batches(account, ["id", "digest", "outcome", "split"]):
        for row in batch.to_pylist():
            if row["outcome"] == "kept":
                ids.append(row["id"])
                read.append(bytes.fromhex(row["digest"][:16]))
                splits.append(SPLITS.index(row["split"]))
    # The columns are of the documents that were kept, in the account's order.
    cleaned = read_column(index / "hashes.u64", np.uint64, 2)[:, 0]
    digests = np.stack([np.frombuffer(b"".join(read), np.uint64), cleaned], axis=1)
    return Members(ids, digests, np.array(splits, np.uint8))
