"""A file of documents to a shard of blocks: whole or not there, and never made twice.

train/00000.tokens.npy, train/00000.positions.npy   the blocks; missing if there are none
train/00000.json                                    what they were made from, and how much of it (`Shard`)
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from leanpipe.core.files import link_or_copy, write_text
from leanpipe.core.store import digest_file, digest_json
from leanpipe.corpus.tables import read_column
from leanpipe.models.load import document_separator, document_start
from leanpipe.tokens.encode import Encoder, TokenBatch, backend_of, encode
from leanpipe.tokens.pack import Packing, lay_out_blocks, plan_packing, token_type
from leanpipe.tokens.row_writer import RowWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_FORMAT = 1  # goes up when the same documents give other blocks
_WINDOW = 2**22  # tokens that are packed together, at least: in memory, and enough for lengths to go together
_WINDOW_BLOCKS = 256  # blocks that are packed together, at least: one of them may stay half empty
TOKENS, POSITIONS = ".tokens.npy", ".positions.npy"


class Shard(BaseModel):
    """What the `.json` of a shard holds. Those of all shards add up to the corpus."""

    model_config = ConfigDict(frozen=True)

    key: str
    """Digest of the file of documents, the tokenizer and the way of packing: the same key, the same blocks."""
    documents: int
    bytes: int
    """Of the texts, in UTF-8."""
    words: int
    tokens: int
    """In the blocks, without padding: the texts', and for each document the ones before and after it."""
    blocks: int
    lengths: dict[int, int]
    """Documents by their tokens, rounded down to a power of two."""


class Packer:
    """Makes blocks with one tokenizer and one way of packing. Words that it met in one file it knows in the next."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", block_length: int, packing: Packing, max_padding: float
    ):
        backend = backend_of(tokenizer)
        self._encoder, self._separator = Encoder(backend), document_separator(tokenizer)
        self._start = document_start(tokenizer)
        self._vocabulary, self._size = len(tokenizer), block_length
        self._packing: Packing = packing
        self._max_padding = max_padding
        # As it was before documents could begin otherwise than they end: shards of then are of use.
        begin = [] if self._start == self._separator else [self._start]
        way = [_FORMAT, block_length, packing, max_padding, self._separator, *begin]
        self._digest = digest_json([way, backend.to_str()])

    def key(self, source: Path) -> str:
        """Names the blocks of a file of documents by all that they depend on."""
        return digest_json([digest_file(source), self._digest])

    def make(self, source: Path, place: Path, key: str, progress: Callable[[int], None]) -> Shard:
        """Write the blocks of `source` to `place` (a path without ending); `progress` is told of documents done."""
        size, vocabulary, separator = self._size, self._vocabulary, self._separator
        counts: Counter[str] = Counter()
        lengths: Counter[int] = Counter()
        with (
            RowWriter(with_ending(place, TOKENS), size, token_type(vocabulary)) as tokens_file,
            RowWriter(with_ending(place, POSITIONS), size, token_type(size)) as positions_file,
        ):
            batches = encode(self._encoder, read_column(source, "text"), separator, self._start)
            for row, each in _windows(_counted(batches, counts, progress), size):
                lengths.update((2 ** np.log2(each.clip(1)).astype(int)).tolist())
                pieces = plan_packing(each, size, self._packing, self._max_padding)
                counts["blocks"] += pieces.total
                for tokens, positions in lay_out_blocks(row, pieces, size, separator, vocabulary):
                    tokens_file.append(tokens)
                    positions_file.append(positions)
        names = ("documents", "bytes", "words", "tokens", "blocks")
        figures = {name: counts[name] for name in names}
        return Shard(key=key, lengths=dict(sorted(lengths.items())), **figures)


def make_shard(
    packer: Packer, source: Path, place: Path, known: Mapping[str, Path], progress: Callable[[int], None]
) -> Shard:
    """Return the shard at `place`: left as it is or linked if it is `known` where shards of its key are, or else made."""
    key = packer.key(source)
    if key not in known:
        shard = packer.make(source, place, key, progress)
        _write(shard, place)
        return shard
    if known[key] != place:
        _link(known[key], place)
    shard = read_shard(place)
    progress(shard.documents)
    return shard


def find_shards(folder: Path) -> dict[str, Path]:
    """Find where the shards of one split are, by their keys, in an earlier result or in what a killed attempt left."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[read_shard(path).key] = path.with_suffix("")
        except ValidationError:  # of another version of leanpipe
            log.info("%s is not used again: it is written otherwise than now", path)
    return found


def read_shard(place: Path) -> Shard:
    """Read what is known of the shard at `place` (a path without ending)."""
    return Shard.model_validate_json(place.with_suffix(".json").read_text())


def with_ending(place: Path, ending: str) -> Path:
    """Return the path of one of a shard's files."""
    return place.with_name(place.name + ending)


def _write(shard: Shard, place: Path) -> None:
    """Write what is known of the shard, which says that its blocks are whole: so it comes last."""
    write_text(place.with_suffix(".json"), shard.model_dump_json(indent=2))


def _link(earlier: Path, place: Path) -> None:
    """Put an earlier shard's files in place: by links, which take no space, where the file system can have it so."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for ending in (TOKENS, POSITIONS):
        source, target = with_ending(earlier, ending), with_ending(place, ending)
        target.unlink(missing_ok=True)
        if not source.exists():
            continue
        link_or_copy(source, target)
    _write(read_shard(earlier), place)


def _counted(
    batches: Iterable[TokenBatch], counts: Counter[str], progress: Callable[[int], None]
) -> Iterator[TokenBatch]:
    for batch in batches:
        counts.update(
            documents=batch.documents, bytes=batch.bytes, words=batch.words, tokens=len(batch.tokens)
        )
        progress(batch.documents)
        yield batch


def _windows(batches: Iterable[TokenBatch], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and lengths of batches together, as many as are packed together."""
    window: list[TokenBatch] = []
    for batch in batches:
        window.append(batch)
        if sum(len(one.tokens) for one in window) >= max(_WINDOW, _WINDOW_BLOCKS * size):
            yield _joined(window)
            window = []
    if window:
        yield _joined(window)


def _joined(window: list[TokenBatch]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([one.tokens for one in window]), np.concatenate([one.lengths for one in window])
