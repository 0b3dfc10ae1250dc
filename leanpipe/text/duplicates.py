"""Documents that say what an earlier one said. The first in reading order stays."""

import re
import zlib
from typing import TYPE_CHECKING

from pydantic import Field

from leanpipe.config import StageConfig
from leanpipe.text.document import Document, Fault

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

_BATCH = 10_000  # shingles hashed at once: bounds the memory for one long document to 10,000 × permutations × 4 bytes
# An ideograph, kana or Thai letter is a word of its own, for these scripts have no spaces.
_SPACELESS = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")


class DuplicatesConfig(StageConfig):
    """Which documents count as repetitions of an earlier one."""

    exact: bool = True
    """Drop a document whose normalised text was there before."""
    near: bool = True
    """Drop a document that is almost the same as one before (MinHash, Broder 1997; Lee et al. 2021, section 4.2)."""
    threshold: float = Field(0.8, gt=0, le=1)
    """Least Jaccard similarity of their shingles at which two documents are near duplicates (Lee et al.: 0.8)."""
    shingle_words: int = Field(5, ge=1, le=50)
    """Words per shingle (Lee et al.: 5)."""
    permutations: int = Field(128, ge=16, le=4096)
    """Hashes per document: more find the threshold more sharply and take longer."""


class SeenTexts:
    """Remembers documents by hash and by MinHash, and recognises repetitions of them."""

    def __init__(self, config: DuplicatesConfig):
        from datasketch import MinHash

        self._config = config
        self._hashes: set[bytes] = set()
        self._empty = MinHash(num_perm=config.permutations, hashfunc=int)
        self._near = _index(config)
        self._signatures: dict[str, MinHash] = {}

    def fault(self, document: Document) -> Fault | None:
        """Why `document` repeats an earlier one; None if it does not, and then it is remembered."""
        if self._config.exact and document.text_hash in self._hashes:
            return Fault("duplicates.exact", 1.0)
        if self._config.near and (fault := self._near_fault(document)):
            return fault
        self._hashes.add(document.text_hash)
        return None

    def _near_fault(self, document: Document) -> Fault | None:
        signature = self._signature(document.text)
        candidates = self._near.query(signature)
        similarity = max((signature.jaccard(self._signatures[id]) for id in candidates), default=0.0)
        if similarity >= self._config.threshold:
            return Fault("duplicates.near", float(similarity))
        self._near.insert(document.id, signature)
        self._signatures[document.id] = signature
        return None

    def _signature(self, text: str) -> "MinHash":
        signature = self._empty.copy()
        shingles = shingle_hashes(text, self._config.shingle_words)
        for start in range(0, len(shingles), _BATCH):
            signature.update_batch(shingles[start : start + _BATCH])
        return signature


def _index(config: DuplicatesConfig) -> "MinHashLSH":
    """Finds candidates. Each of them is compared, so more of them cost nothing but time."""
    from datasketch import MinHashLSH

    try:
        return MinHashLSH(threshold=config.threshold, num_perm=config.permutations)
    except ValueError:  # datasketch's own choice for thresholds near 1 is one band, and it refuses that
        return MinHashLSH(num_perm=config.permutations, params=(2, config.permutations // 2))


def shingle_hashes(text: str, size: int) -> list[int]:
    """32-bit hashes of the distinct runs of `size` words of `text`, regardless of case and punctuation.

    A text shorter than that has one run, itself.
    """
    words = _WORD.findall(text.lower())
    runs = range(max(1, len(words) - size + 1))
    return sorted({zlib.crc32(" ".join(words[start : start + size]).encode()) for start in runs})
