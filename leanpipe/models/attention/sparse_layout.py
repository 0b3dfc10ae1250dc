"""Which keys each block of queries is given in sparse attention, and which of those each query attends to.

Where to find what: `is_linked` is the pattern, by two tokens' positions in their document; `LayoutMaker` makes the layout of a
batch of rows from it, `layout_of` remembers that for all layers; `random_blocks` are those of bigbird.

Letters in names of tensors: B batch, T tokens, N blocks, C tokens of a block, L keys that a block of queries is given, E those
of them that were gathered, R random blocks.
"""

import functools
import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from leanpipe.models.attention.attention_patterns import AttentionConfig

BLOCK = 128
"""Queries that are computed together where the pattern has no blocks of its own."""


@dataclass(frozen=True)
class Options:
    """What a layer knows of how it attends."""

    pattern: AttentionConfig
    layer: int
    dropout: float
    scaling: float | None


@dataclass(frozen=True)
class Layout:
    """Which keys each block of queries is given, and which of those each of its queries attends to."""

    block: int
    before: int
    """How many whole blocks before its own a block is given."""
    gathered_BNE: torch.Tensor | None
    """Places of further keys."""
    mask: torch.Tensor
    """Bool, (B, K or 1, N, C, L)."""


def number_documents(positions_BT: torch.Tensor, padding_BT: torch.Tensor | None) -> torch.Tensor:
    """Number each token's document, rising along each row. Every token of padding is one by itself."""
    begins = torch.ones_like(positions_BT, dtype=torch.bool)
    begins[:, 1:] = positions_BT.diff(dim=1) != 1
    if padding_BT is not None:
        begins = begins | ~padding_BT
        begins[:, 1:] |= ~padding_BT[:, :-1]
    return begins.cumsum(1)


_layouts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Layouts by the positions that they were made of, which all layers of a forward pass share."""


@torch.compiler.disable
def layout_of(positions_BT: torch.Tensor, padding_BT: torch.Tensor | None, options: Options) -> Layout:
    """Return the layout of a batch, made once for all layers that attend alike and are given the same positions."""
    pattern = options.pattern
    if padding_BT is not None or positions_BT.is_inference():
        return _make_layout(positions_BT, padding_BT, options)
    layer = options.layer if pattern.pattern == "bigbird" else 0
    name = (pattern.model_dump_json(), layer, positions_BT._version)
    known = _layouts.setdefault(positions_BT, {})
    if name not in known:
        known[name] = _make_layout(positions_BT, None, options)
    return known[name]


def _make_layout(positions_BT: torch.Tensor, padding_BT: torch.Tensor | None, options: Options) -> Layout:
    pattern, length = options.pattern, positions_BT.shape[1]
    block = min(length, pattern.block if pattern.pattern == "bigbird" else min(pattern.window, BLOCK))
    documents_BT = number_documents(positions_BT, padding_BT)
    place_T = torch.arange(length, device=positions_BT.device)
    begins = documents_BT.diff(dim=1, prepend=documents_BT[:, :1] - 1) != 0
    start_BT = torch.where(begins, place_T, 0).cummax(1).values
    return LayoutMaker(documents_BT, start_BT, block, options).layout()


class LayoutMaker:
    """Makes the layout of a batch of rows; `start_BT` is the place at which each token's document begins."""

    def __init__(self, documents_BT: torch.Tensor, start_BT: torch.Tensor, block: int, options: Options):
        self._pattern, self._block = options.pattern, block
        length = documents_BT.shape[1]
        self._blocks = -(-length // block)
        self._before = min(-(-(self._pattern.window - 1) // block), self._blocks - 1)
        missing = self._blocks * block - length
        self._documents_BT = F.pad(documents_BT, (0, missing), value=-1)
        self._start_BT = F.pad(start_BT, (0, missing))
        self._table_NR = random_blocks(options, self._blocks * block, documents_BT.device)
        first = torch.arange(self._blocks, device=documents_BT.device) * block
        self._place_NC = first[:, None] + torch.arange(block, device=first.device)
        keys = torch.arange(-self._before * block, block, device=first.device)
        self._near_NL = first[:, None] + keys

    def layout(self) -> Layout:
        """Make the layout: the keys that are near, and those that are gathered."""
        near = self._mask(self._near_NL.expand(len(self._documents_BT), -1, -1))
        far_BNE = self._far()
        if far_BNE is None:
            return Layout(self._block, self._before, None, near[:, None])
        # What is near has been given already.
        far = self._mask(far_BNE) & (far_BNE < self._near_NL[:, :1])[:, :, None] & self._own(far_BNE)
        mask = torch.cat([near, far], -1)[:, None]
        return Layout(self._block, self._before, far_BNE.clamp(min=0), mask)

    def _mask(self, keys_BNL: torch.Tensor) -> torch.Tensor:
        """Whether each query attends to each of these places, (B, N, C, L)."""
        batch = torch.arange(len(keys_BNL), device=keys_BNL.device)[:, None, None]
        inside = keys_BNL.clamp(min=0)
        documents_BNL = torch.where(keys_BNL >= 0, self._documents_BT[batch, inside], -2)
        own_BNC = self._documents_BT.unflatten(1, (self._blocks, self._block))
        start_BNC = self._start_BT.unflatten(1, (self._blocks, self._block))
        query = (self._place_NC - start_BNC)[..., None].int()
        key = (keys_BNL[:, :, None] - start_BNC[..., None]).int()
        linked = is_linked(query, key, self._pattern, self._table_NR)
        return (documents_BNL[:, :, None] == own_BNC[..., None]) & (key <= query) & linked

    def _far(self) -> torch.Tensor | None:
        """Places of the beginning of the document that a block begins in, then those of its random blocks.

        Only that document can have begun before the block; what other documents attend to lies in the block itself.
        """
        if self._pattern.pattern not in ("longformer", "bigbird"):
            return None
        start_BN = self._start_BT[:, :: self._block]
        places = torch.arange(self._pattern.global_tokens, device=start_BN.device)
        globals_BNE = start_BN[..., None] + places
        if self._table_NR is None:
            return globals_BNE.clamp(max=self._documents_BT.shape[1] - 1)
        drawn_BNE = self._drawn()
        size = self._pattern.block
        inner = torch.arange(size, device=start_BN.device)
        random = start_BN[..., None, None] + drawn_BNE[..., None] * size + inner
        random = torch.where(drawn_BNE[..., None] >= 0, random, -1).flatten(2)
        return torch.cat([globals_BNE, random], -1).clamp(max=self._documents_BT.shape[1] - 1)

    def _drawn(self) -> torch.Tensor:
        """Numbers of the random blocks of those two blocks of a document that a block of the row can lie in."""
        assert self._table_NR is not None
        number_BN = (self._place_NC[:, 0] - self._start_BT[:, :: self._block]) // self._pattern.block
        both_BN2 = torch.stack([number_BN, number_BN + 1], -1).clamp(max=len(self._table_NR) - 1)
        return self._table_NR[both_BN2].flatten(2)

    def _own(self, far_BNE: torch.Tensor) -> torch.Tensor:
        """Whether a gathered key was gathered for this query, so that none counts twice, (B, N, C, E)."""
        globals_ = self._pattern.global_tokens
        start_BN1 = self._start_BT[:, :: self._block, None]
        is_global = far_BNE - start_BN1 < globals_
        wanted = torch.zeros_like(far_BNE, dtype=torch.bool)
        wanted[..., :globals_] = is_global[..., :globals_]
        mask = wanted[:, :, None]
        if self._table_NR is None:
            return mask
        size = self._pattern.block
        number_BNC = (self._place_NC - start_BN1) // size
        each = self._table_NR.shape[1] * size
        slot_E = torch.arange(2 * each, device=far_BNE.device) // each
        own = (number_BNC[..., None] - number_BNC[:, :, :1, None]) == slot_E
        return torch.cat(
            [mask[..., :globals_].expand(*own.shape[:3], -1), own & ~is_global[:, :, None, globals_:]], -1
        )


def is_linked(
    query: torch.Tensor, key: torch.Tensor, pattern: AttentionConfig, table_NR: torch.Tensor | None
) -> torch.Tensor:
    """Whether a token attends to an earlier one, by their positions in the document, which broadcast."""
    linked = query - key < pattern.window
    if pattern.pattern in ("longformer", "bigbird"):
        linked = linked | (key < pattern.global_tokens)
    if table_NR is not None:
        numbers = key // pattern.block
        for drawn_N in table_NR.unbind(1):
            own = drawn_N[(query // pattern.block).clamp(0, len(drawn_N) - 1)]
            linked = linked | ((own == numbers) & (numbers >= 0))
    return linked


def random_blocks(options: Options, length: int, device: torch.device) -> torch.Tensor | None:
    """Return the numbers of the random blocks that each block of a document of `length` tokens attends to; -1 where there are none."""
    pattern = options.pattern
    if pattern.pattern != "bigbird":
        return None
    blocks = 1 << (length // pattern.block).bit_length()
    table = drawn_blocks(
        pattern.seed, options.layer, blocks, pattern.random_blocks, pattern.block, pattern.window
    )
    return table.to(device)


@functools.lru_cache(256)
def drawn_blocks(seed: int, layer: int, blocks: int, count: int, block: int, window: int) -> torch.Tensor:
    """Draw the random blocks of each block, (N, R), from those before its window with a seed of its own, whatever comes after it."""
    table = torch.full((blocks, count), -1, dtype=torch.int32)
    for number in range(blocks):
        before = max(0, (number * block - window + 1) // block)
        generator = seeded_generator(seed, layer, number)
        drawn = torch.randperm(before, generator=generator)[:count]
        table[number, : len(drawn)] = drawn.int()
    return table


def seeded_generator(*names: int) -> torch.Generator:
    """Return a random generator that draws the same on every machine for the same numbers."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
