"""Sparse causal attention in time and memory that grow with length: for transformers' attention interface.

Tokens are cut into blocks of C. Each block of queries is given the keys it may attend to: those of its own and some
earlier blocks, and a fixed number of others that are gathered. So every product is dense and small, on any device.

Where to find what: `sparse_attention_forward` is the entry, which chooses among three ways, each under its heading below:
blocks (windows, global tokens, bigbird), buckets (reformer, by sorting), and the cache (single new tokens while writing).
What each block of queries is given, and the patterns themselves, are in sparse_layout.py.

Letters in names of tensors: B batch, T tokens, H heads, K heads of keys and values, D width of a head, N blocks, C tokens
of a block, L keys that a block of queries is given, E those of them that were gathered, R random directions.
"""

import functools
import json
from typing import Any

import torch
import torch.nn.functional as F

from leanpipe.models.attention.attention_patterns import KEY, AttentionConfig
from leanpipe.models.attention.sparse_layout import (
    BLOCK,
    Layout,
    LayoutMaker,
    Options,
    is_linked,
    layout_of,
    number_documents,
    random_blocks,
    seeded_generator,
)

NAME = "leanpipe"
"""By which transformers knows this attention."""


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
    options = Options(pattern, layer, dropout, scaling)
    if past:
        output = _attend_to_cache(query_BHTD, key_BKTD, value_BKTD, positions_BT, attention_mask, options)
    elif pattern.pattern == "reformer":
        output = _attend_in_buckets(query_BHTD, key_BKTD, value_BKTD, positions_BT, attention_mask, options)
    else:
        layout = layout_of(positions_BT, attention_mask, options)
        output = _attend_in_blocks(query_BHTD, key_BKTD, value_BKTD, layout, options)
    return output.transpose(1, 2).contiguous(), None


@functools.cache
def _pattern(text: str) -> AttentionConfig:
    return AttentionConfig.model_validate_json(text)


# Blocks


def _attend_in_blocks(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    layout: Layout,
    options: Options,
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


def _given(key_BKTD: torch.Tensor, layout: Layout) -> torch.Tensor:
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
    options: Options,
) -> torch.Tensor:
    """Attend from each token to the last of its bucket: tokens are sorted by document and bucket, and a window slides over them.

    Locality-sensitive hashing as in Kitaev et al. 2020, "Reformer", arXiv 2001.04451, section 2, with two differences. A
    token's bucket is that of its key alone, so that keys from a cache have theirs too. And the window goes back from
    the token itself, not over fixed chunks of the sorted row, whose limits would depend on tokens to come.
    """
    heads, length = key_BKTD.shape[1], key_BKTD.shape[2]
    documents_BT = number_documents(positions_BT, padding_BT)
    groups_BKT = documents_BT[:, None] * options.pattern.buckets + _buckets(key_BKTD, options)
    groups_BKT, order_BKT = groups_BKT.sort(dim=-1, stable=True)
    rows = groups_BKT.flatten(0, 1)  # each head has an order, and so a layout, of its own
    block = min(length, options.pattern.window, BLOCK)
    made = LayoutMaker(rows, torch.zeros_like(rows), block, options).layout()
    layout = Layout(made.block, made.before, None, made.mask.view(len(key_BKTD), heads, *made.mask.shape[2:]))
    query = query_BHTD.unflatten(1, (heads, -1))
    over = order_BKT[:, :, None, :, None].expand(query.shape)
    key, value = (one.gather(2, order_BKT[..., None].expand(one.shape)) for one in (key_BKTD, value_BKTD))
    output = _attend_in_blocks(query.gather(3, over).flatten(1, 2), key, value, layout, options)
    output = output.unflatten(1, (heads, -1))
    return output.gather(3, order_BKT.argsort(-1)[:, :, None, :, None].expand(output.shape)).flatten(1, 2)


def _buckets(key_BKTD: torch.Tensor, options: Options) -> torch.Tensor:
    """The bucket of each key, (B, K, T): which of random directions and their opposites is nearest to it
    (Andoni et al. 2015, "Practical and Optimal LSH for Angular Distance", arXiv 1509.02897)."""
    _, heads, _, width = key_BKTD.shape
    directions = _directions(options.pattern.seed, options.layer, heads, width, options.pattern.buckets // 2)
    with torch.no_grad(), torch.autocast(key_BKTD.device.type, enabled=False):
        near = torch.einsum("bktd,kdr->bktr", key_BKTD.float(), directions.to(key_BKTD.device))
        return torch.cat([near, -near], -1).argmax(-1)


@functools.lru_cache(256)
def _directions(seed: int, layer: int, heads: int, width: int, count: int) -> torch.Tensor:
    return torch.randn(heads, width, count, generator=seeded_generator(seed, layer))


# The cache


def _attend_to_cache(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    positions_BT: torch.Tensor,
    padding_BT: torch.Tensor | None,
    options: Options,
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
        table_NR = random_blocks(options, int(positions_BT.max()) + 1, device)
        allowed = allowed & is_linked(query_B1Q1, key_B11T, pattern, table_NR)
    shared = query_BHTD.shape[1] // heads
    return F.scaled_dot_product_attention(
        query_BHTD,
        key_BKTD.repeat_interleave(shared, 1),
        value_BKTD.repeat_interleave(shared, 1),
        attn_mask=allowed.repeat_interleave(shared, 1) if allowed.shape[1] > 1 else allowed,
        dropout_p=options.dropout,
        scale=options.scaling,
    )
