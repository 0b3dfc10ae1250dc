"""Sparse causal attention in time and memory that grow with length: for transformers' attention interface.

Tokens are cut into blocks of C. Each block of queries is given the keys it may attend to: those of its own and some
earlier blocks, and a fixed number of others that are gathered. So every product is dense and small, on any device.

Letters in names of tensors: B batch, T tokens, H heads, K heads of keys and values, D width of a head, N blocks, C tokens
of a block, L keys that a block of queries is given, E those of them that were gathered, R random blocks.
"""

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from leanpipe.models.attention_patterns import KEY, AttentionConfig

NAME = "leanpipe"
"""By which transformers knows this attention."""
_BLOCK = 128
"""Queries that are computed together where the pattern has no blocks of its own."""


def attention_implementation(config: Any) -> str | None:
    """Return the `attn_implementation` that a model of this config needs; None leaves the choice to transformers."""
    if not getattr(config, KEY, None):
        return None
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(NAME, sparse_attention_forward)
    AttentionMaskInterface.register(NAME, flash_attention_mask)  # the mask of padding, (B, T), or None
    return NAME


def sparse_attention_forward(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_ids: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend by the pattern that the layer's config names; transformers calls it in each layer. Returns (B, T, H, D).

    A document begins wherever `position_ids` do not go on by one. Fewer queries than keys are the last tokens of one
    document, of which the others are in the cache.
    """
    pattern = _pattern(json.dumps(getattr(module.config, KEY)))
    layer = int(getattr(module, "layer_idx", None) or 0)
    past = key_BKTD.shape[2] - query_BHTD.shape[2]
    if position_ids is None:
        position_ids = torch.arange(past, key_BKTD.shape[2], device=key_BKTD.device)[None]
    positions_BT = position_ids  # or one row for all; not made anew, for layouts are remembered by it
    options = _Options(pattern, layer, dropout, scaling)
    if past:
        output = _attend_to_cache(query_BHTD, key_BKTD, value_BKTD, positions_BT, attention_mask, options)
    elif pattern.pattern == "reformer":
        output = _attend_in_buckets(query_BHTD, key_BKTD, value_BKTD, positions_BT, attention_mask, options)
    else:
        layout = _layout(positions_BT, attention_mask, options)
        output = _attend_in_blocks(query_BHTD, key_BKTD, value_BKTD, layout, options)
    return output.transpose(1, 2).contiguous(), None


@dataclass(frozen=True)
class _Options:
    pattern: AttentionConfig
    layer: int
    dropout: float
    scaling: float | None


@dataclass(frozen=True)
class _Layout:
    """Which keys each block of queries is given, and which of those each of its queries attends to."""

    block: int
    before: int
    """How many whole blocks before its own a block is given."""
    gathered_BNE: torch.Tensor | None
    """Places of further keys."""
    mask: torch.Tensor
    """Bool, (B, K or 1, N, C, L)."""


@functools.cache
def _pattern(text: str) -> AttentionConfig:
    return AttentionConfig.model_validate_json(text)


def _documents(positions_BT: torch.Tensor, padding_BT: torch.Tensor | None) -> torch.Tensor:
    """A number for each token's document, rising along each row. Every token of padding is one by itself."""
    begins = torch.ones_like(positions_BT, dtype=torch.bool)
    begins[:, 1:] = positions_BT.diff(dim=1) != 1
    if padding_BT is not None:
        begins = begins | ~padding_BT
        begins[:, 1:] |= ~padding_BT[:, :-1]
    return begins.cumsum(1)


# Blocks


_layouts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Layouts by the positions that they were made of, which all layers of a forward pass share."""


@torch.compiler.disable
def _layout(positions_BT: torch.Tensor, padding_BT: torch.Tensor | None, options: _Options) -> _Layout:
    pattern = options.pattern
    if padding_BT is not None or positions_BT.is_inference():
        return _make_layout(positions_BT, padding_BT, options)
    layer = options.layer if pattern.pattern == "bigbird" else 0
    name = (pattern.model_dump_json(), layer, positions_BT._version)
    known = _layouts.setdefault(positions_BT, {})
    if name not in known:
        known[name] = _make_layout(positions_BT, None, options)
    return known[name]


def _make_layout(positions_BT: torch.Tensor, padding_BT: torch.Tensor | None, options: _Options) -> _Layout:
    pattern, length = options.pattern, positions_BT.shape[1]
    block = min(length, pattern.block if pattern.pattern == "bigbird" else min(pattern.window, _BLOCK))
    documents_BT = _documents(positions_BT, padding_BT)
    place_T = torch.arange(length, device=positions_BT.device)
    begins = documents_BT.diff(dim=1, prepend=documents_BT[:, :1] - 1) != 0
    start_BT = torch.where(begins, place_T, 0).cummax(1).values
    return _Blocks(documents_BT, start_BT, block, options).layout()


class _Blocks:
    """Makes the layout of a batch of rows; `start_BT` is the place at which each token's document begins."""

    def __init__(self, documents_BT: torch.Tensor, start_BT: torch.Tensor, block: int, options: _Options):
        self._pattern, self._block = options.pattern, block
        length = documents_BT.shape[1]
        self._blocks = -(-length // block)
        self._before = min(-(-(self._pattern.window - 1) // block), self._blocks - 1)
        missing = self._blocks * block - length
        self._documents_BT = F.pad(documents_BT, (0, missing), value=-1)
        self._start_BT = F.pad(start_BT, (0, missing))
        self._table_NR = _random_blocks(options, self._blocks * block, documents_BT.device)
        first = torch.arange(self._blocks, device=documents_BT.device) * block
        self._place_NC = first[:, None] + torch.arange(block, device=first.device)
        keys = torch.arange(-self._before * block, block, device=first.device)
        self._near_NL = first[:, None] + keys

    def layout(self) -> _Layout:
        near = self._mask(self._near_NL.expand(len(self._documents_BT), -1, -1))
        far_BNE = self._far()
        if far_BNE is None:
            return _Layout(self._block, self._before, None, near[:, None])
        # What is near has been given already.
        far = self._mask(far_BNE) & (far_BNE < self._near_NL[:, :1])[:, :, None] & self._own(far_BNE)
        mask = torch.cat([near, far], -1)[:, None]
        return _Layout(self._block, self._before, far_BNE.clamp(min=0), mask)

    def _mask(self, keys_BNL: torch.Tensor) -> torch.Tensor:
        """Whether each query attends to each of these places, (B, N, C, L)."""
        batch = torch.arange(len(keys_BNL), device=keys_BNL.device)[:, None, None]
        inside = keys_BNL.clamp(min=0)
        documents_BNL = torch.where(keys_BNL >= 0, self._documents_BT[batch, inside], -2)
        own_BNC = self._documents_BT.unflatten(1, (self._blocks, self._block))
        start_BNC = self._start_BT.unflatten(1, (self._blocks, self._block))
        query = (self._place_NC - start_BNC)[..., None].int()
        key = (keys_BNL[:, :, None] - start_BNC[..., None]).int()
        linked = _linked(query, key, self._pattern, self._table_NR)
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


def _linked(
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


def _random_blocks(options: _Options, length: int, device: torch.device) -> torch.Tensor | None:
    """The numbers of the blocks that each block of a document of `length` tokens attends to; -1 where there are none."""
    pattern = options.pattern
    if pattern.pattern != "bigbird":
        return None
    blocks = 1 << (length // pattern.block).bit_length()
    table = _drawn_blocks(
        pattern.seed, options.layer, blocks, pattern.random_blocks, pattern.block, pattern.window
    )
    return table.to(device)


@functools.lru_cache(256)
def _drawn_blocks(seed: int, layer: int, blocks: int, count: int, block: int, window: int) -> torch.Tensor:
    """Draw the random blocks of each block, (N, R), from those before its window with a seed of its own, whatever comes after it."""
    table = torch.full((blocks, count), -1, dtype=torch.int32)
    for number in range(blocks):
        before = max(0, (number * block - window + 1) // block)
        generator = _generator(seed, layer, number)
        drawn = torch.randperm(before, generator=generator)[:count]
        table[number, : len(drawn)] = drawn.int()
    return table


def _attend_in_blocks(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    layout: _Layout,
    options: _Options,
) -> torch.Tensor:
    """Attend block by block, each to the keys that the layout gives it, (B, H, T, D)."""
    batch, heads, length, _ = query_BHTD.shape
    shared = heads // key_BKTD.shape[1]
    blocks = layout.mask.shape[2]
    query = F.pad(query_BHTD, (0, 0, 0, blocks * layout.block - length))
    # The queries that share a head of keys are rows of one product: (B N, K, H/K C, D).
    query = query.unflatten(2, (blocks, layout.block)).unflatten(1, (-1, shared))
    query = query.permute(0, 3, 1, 2, 4, 5).flatten(3, 4).flatten(0, 1)
    mask = layout.mask.transpose(1, 2)[:, :, :, None].expand(batch, -1, -1, shared, -1, -1)
    output = F.scaled_dot_product_attention(
        query,
        _given(key_BKTD, layout),
        _given(value_BKTD, layout),
        attn_mask=mask.flatten(3, 4).flatten(0, 1),
        dropout_p=options.dropout,
        scale=options.scaling,
    )
    output = output.unflatten(0, (batch, blocks)).unflatten(3, (shared, layout.block))
    return output.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)[:, :, :length]


def _given(key_BKTD: torch.Tensor, layout: _Layout) -> torch.Tensor:
    """The keys that each block of queries is given, (B N, K, L, D)."""
    batch, heads, length, width = key_BKTD.shape
    block, before, blocks = layout.block, layout.before, layout.mask.shape[2]
    padded = F.pad(key_BKTD, (0, 0, before * block, blocks * block - length)).unflatten(2, (-1, block))
    near = torch.cat([padded[:, :, first : first + blocks] for first in range(before + 1)], 3)
    parts = [near.transpose(1, 2)]
    if layout.gathered_BNE is not None:
        rows = key_BKTD.transpose(1, 2).reshape(batch * length, heads * width)
        offset = torch.arange(batch, device=rows.device)[:, None, None] * length
        places = (layout.gathered_BNE.clamp(max=length - 1) + offset).flatten()
        gathered = rows.index_select(0, places).view(batch, blocks, -1, heads, width)
        parts.append(gathered.transpose(2, 3))
    return torch.cat(parts, 3).flatten(0, 1)


# Buckets


def _attend_in_buckets(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    positions_BT: torch.Tensor,
    padding_BT: torch.Tensor | None,
    options: _Options,
) -> torch.Tensor:
    """Attend from each token to the last of its bucket: tokens are sorted by document and bucket, and a window slides over them.

    Locality-sensitive hashing as in Kitaev et al. 2020, "Reformer", arXiv 2001.04451, section 2, with two differences. A
    token's bucket is that of its key alone, so that keys from a cache have theirs too. And the window goes back from
    the token itself, not over fixed chunks of the sorted row, whose limits would depend on tokens to come.
    """
    heads, length = key_BKTD.shape[1], key_BKTD.shape[2]
    documents_BT = _documents(positions_BT, padding_BT)
    groups_BKT = documents_BT[:, None] * options.pattern.buckets + _buckets(key_BKTD, options)
    groups_BKT, order_BKT = groups_BKT.sort(dim=-1, stable=True)
    rows = groups_BKT.flatten(0, 1)  # each head has an order, and so a layout, of its own
    block = min(length, options.pattern.window, _BLOCK)
    made = _Blocks(rows, torch.zeros_like(rows), block, options).layout()
    layout = _Layout(
        made.block, made.before, None, made.mask.view(len(key_BKTD), heads, *made.mask.shape[2:])
    )
    query = query_BHTD.unflatten(1, (heads, -1))
    over = order_BKT[:, :, None, :, None].expand(query.shape)
    key, value = (one.gather(2, order_BKT[..., None].expand(one.shape)) for one in (key_BKTD, value_BKTD))
    output = _attend_in_blocks(query.gather(3, over).flatten(1, 2), key, value, layout, options)
    output = output.unflatten(1, (heads, -1))
    return output.gather(3, order_BKT.argsort(-1)[:, :, None, :, None].expand(output.shape)).flatten(1, 2)


def _buckets(key_BKTD: torch.Tensor, options: _Options) -> torch.Tensor:
    """The bucket of each key, (B, K, T): which of random directions and their opposites is nearest to it
    (Andoni et al. 2015, "Practical and Optimal LSH for Angular Distance", arXiv 1509.02897)."""
    _, heads, _, width = key_BKTD.shape
    directions = _directions(options.pattern.seed, options.layer, heads, width, options.pattern.buckets // 2)
    with torch.no_grad(), torch.autocast(key_BKTD.device.type, enabled=False):
        near = torch.einsum("bktd,kdr->bktr", key_BKTD.float(), directions.to(key_BKTD.device))
        return torch.cat([near, -near], -1).argmax(-1)


@functools.lru_cache(256)
def _directions(seed: int, layer: int, heads: int, width: int, count: int) -> torch.Tensor:
    return torch.randn(heads, width, count, generator=_generator(seed, layer))


def _generator(*names: int) -> torch.Generator:
    """A random generator that draws the same on every machine for the same numbers."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


# The cache


def _attend_to_cache(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    positions_BT: torch.Tensor,
    padding_BT: torch.Tensor | None,
    options: _Options,
) -> torch.Tensor:
    """Attend from a few last tokens to all before them, with a mask: what a token costs grows with length, as in full attention."""
    pattern, device = options.pattern, query_BHTD.device
    heads, keys, queries = key_BKTD.shape[1], key_BKTD.shape[2], query_BHTD.shape[2]
    query_B1Q1 = positions_BT[:, None, :, None]
    back = torch.arange(keys - 1, -1, -1, device=device)
    key_B11T = positions_BT[:, -1:, None, None] - back
    # Before position 0 there is padding.
    allowed = (key_B11T >= 0) & (key_B11T <= query_B1Q1)
    if padding_BT is not None and padding_BT.shape[-1] == keys:
        allowed &= padding_BT[:, None, None] | (key_B11T == query_B1Q1)
    if pattern.pattern == "reformer":
        buckets_BKT = _buckets(key_BKTD, options)
        allowed = allowed & (buckets_BKT[:, :, -queries:, None] == buckets_BKT[:, :, None])
        later = allowed.flip(-1).cumsum(-1).flip(-1) - allowed.int()
        allowed = allowed & (later < pattern.window)
    else:
        table_NR = _random_blocks(options, int(positions_BT.max()) + 1, device)
        allowed = allowed & _linked(query_B1Q1, key_B11T, pattern, table_NR)
    shared = query_BHTD.shape[1] // heads
    return F.scaled_dot_product_attention(
        query_BHTD,
        key_BKTD.repeat_interleave(shared, 1),
        value_BKTD.repeat_interleave(shared, 1),
        attn_mask=allowed.repeat_interleave(shared, 1) if allowed.shape[1] > 1 else allowed,
        dropout_p=options.dropout,
        scale=options.scaling,
    )
