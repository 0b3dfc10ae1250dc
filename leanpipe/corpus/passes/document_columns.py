"""What the first pass notes of each document that may stay, so that the second pass need read no text.

One file of numbers for each of `COLUMNS`, in the order of the documents; `Segment` reads them.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.dedup.column_files import ColumnWriter
from leanpipe.corpus.dedup.minhash import signature
from leanpipe.corpus.dedup.word_hashes import shingles, word_hashes
from leanpipe.corpus.earlier_splits import EarlierSplits
from leanpipe.corpus.split import split_of
from leanpipe.corpus.split_members import digest_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
"""The files and their types. `held_out`: the runs of words of held-out documents, as `ngram_hashes` numbers them."""


class Columns:
    """Writes what is noted of each document that may stay: a file in `folder` for each of `COLUMNS`."""

    def __init__(self, folder: Path, config: CleanConfig, earlier: EarlierSplits | None = None):
        self._config, self._earlier = config, earlier
        self.stayed = 0
        """How many documents stay where an earlier corpus had them, although these shares say otherwise."""
        self._writers = {name: ColumnWriter(folder / name, kind) for name, kind in COLUMNS.items()}

    def __enter__(self) -> "Columns":
        return self

    def __exit__(self, *error: Any) -> None:
        for writer in self._writers.values():
            writer.close()

    def append(self, id: str, text: str, read: str = "") -> int:
        """Note a document; returns the place of its split in `SPLITS`.

        Its text decides that, unless an earlier corpus had it, or the text `read` that it was cleaned of, in another one.
        """
        text_hash = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        split = split_of(text_hash, self._config.split)
        if self._earlier:
            digests = np.array([digest_text(read), digest_text(text)], np.uint64)
            last = int(self._earlier.last_of(digests).min())
            self.stayed += last < split
            split = min(split, last)
        for name, values in _columns_of(id, text, text_hash, split, self._config).items():
            self._writers[name].append(values)
        return split


def _columns_of(id: str, text: str, text_hash: bytes, split: int, config: CleanConfig) -> dict[str, Any]:
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
    """Split a text where lines are empty."""
    return text.split("\n\n")


def paragraph_hash(paragraph: str) -> int:
    """Return 64 bits that are the same for the same paragraph, whatever white space is around it."""
    data = paragraph.strip().encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
