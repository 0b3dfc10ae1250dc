"""Full causal attention, document by document: much faster than one attention under a mask.

Packed blocks hold several documents that must not see each other. transformers then makes a mask of all pairs of tokens, and
PyTorch multiplies all pairs, though most are masked. Here each document is attended to by itself, and only backwards: on a
processor one after the other, on a GPU by PyTorch's FlashAttention for documents of many lengths.

Where to find what: `use_varlen_attention` puts it into a model if it computes the same, `varlen_attention_forward` is what
each layer then calls, `_VarlenAttention` its way on a processor and `_on_gpu` that on a GPU.

Letters in names of tensors: B batch, T tokens, H heads, K heads of keys and values, D width of a head, N tokens of all rows,
L tokens of a document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from leanpipe.core import device

NAME = "leanpipe_varlen"
"""By which transformers knows this attention."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def use_varlen_attention(model: Any, arithmetic: torch.dtype | None = None) -> None:
    """Switch a causal language model to attention by document for batches without padding, if it computes the same then.

    `arithmetic` is that of the autocast in which it runs; None is that of its weights.
    """
    dtype = arithmetic or model.dtype
    if not _can(model.device, dtype) or model.config._attn_implementation != "sdpa":
        return
    if not _is_full(model.config):
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(NAME, varlen_attention_forward)
    AttentionMaskInterface.register(NAME, flash_attention_mask)  # none, as there is no padding
    expected = _sample(model, dtype)
    model.set_attn_implementation(NAME)
    if not torch.allclose(_sample(model, dtype), expected, rtol=0.05, atol=0.05, equal_nan=True):
        use_default_attention(model)


def use_default_attention(model: Any) -> None:
    """Switch a model back from attention by document: it reads padded batches and goes on from a cache again."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa")


@torch.compiler.disable  # whose own it would make anew for other numbers of documents
def varlen_attention_forward(
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
    """Attend within each document; transformers calls it in each layer. The result has the shape (B, T, H, D).

    A document begins with each row, and wherever `position_ids` do not go on by one.
    """
    batch, length = query_BHTD.shape[0], query_BHTD.shape[2]
    documents = _documents(position_ids, batch, length, query_BHTD.device)
    inputs = [each.transpose(1, 2).flatten(0, 1) for each in (query_BHTD, key_BKTD, value_BKTD)]
    kind = query_BHTD.device.type
    if torch.is_autocast_enabled(kind):
        inputs = [each.to(torch.get_autocast_dtype(kind)) for each in inputs]
    if dropout or query_BHTD.shape[-1] != value_BKTD.shape[-1]:
        output_NHD = _attend(documents.lengths, dropout, scaling, *inputs)
    elif kind == "cuda":
        output_NHD = _on_gpu(documents, scaling, *inputs)
    else:
        output_NHD = _VarlenAttention.apply(*inputs, documents.lengths, scaling)
    return output_NHD.unflatten(0, (batch, length)), None


@dataclass
class _Documents:
    """Where the documents of a batch lie, one row after the other."""

    bounds: torch.Tensor
    """Where each begins, and where the last ends."""
    lengths: list[int]

    @cached_property
    def longest(self) -> int:
        return max(self.lengths)


def _documents(positions_BT: torch.Tensor | None, batch: int, length: int, where: torch.device) -> _Documents:
    """Find where documents begin, once for all layers, which are given the same tensor: a GPU is waited for."""
    found = getattr(positions_BT, "_leanpipe_documents", None)
    if found:
        return found
    if positions_BT is None:
        bounds = torch.arange(0, batch * length + 1, length)
    else:
        begins_BT = torch.ones(positions_BT.shape, dtype=torch.bool, device=positions_BT.device)
        begins_BT[:, 1:] = positions_BT.diff(dim=1) != 1
        begins_N = begins_BT.expand(batch, length).flatten().nonzero()[:, 0]
        bounds = torch.cat([begins_N, begins_N.new_tensor([batch * length])])
    documents = _Documents(bounds.to(where, torch.int32), bounds.diff().tolist())
    if positions_BT is not None:
        positions_BT._leanpipe_documents = documents  # type: ignore[attr-defined]
    return documents


def _on_gpu(
    documents: _Documents,
    scaling: float | None,
    query_NHD: torch.Tensor,
    key_NKD: torch.Tensor,
    value_NKD: torch.Tensor,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = documents.bounds, documents.longest
    return varlen_attn(
        *_with_all_heads(query_NHD, key_NKD, value_NKD),
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
    )


class _VarlenAttention(torch.autograd.Function):
    """PyTorch's own attention for processors, a document at a time.

    Its backward pass is up to four times as fast in float32 as in bfloat16, so it is done in float32.
    """

    @staticmethod
    def forward(ctx, query_NHD, key_NKD, value_NKD, lengths, scaling):
        output_NHD = torch.empty_like(query_NHD)
        sums = []
        for query, key, value, output in _each(
            lengths, *_with_all_heads(query_NHD, key_NKD, value_NKD), output_NHD
        ):
            found, logsumexp = _forward(query, key, value, 0.0, True, scale=scaling)
            output.copy_(found)
            sums.append(logsumexp)
        ctx.save_for_backward(query_NHD, key_NKD, value_NKD, output_NHD, *sums)
        ctx.lengths, ctx.scaling = lengths, scaling
        return output_NHD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream_NHD):
        query_NHD, key_NKD, value_NKD, output_NHD, *sums = ctx.saved_tensors
        given = [
            each.float()
            for each in (*_with_all_heads(query_NHD, key_NKD, value_NKD), output_NHD, upstream_NHD)
        ]
        gradients = [torch.empty_like(each) for each in given[:3]]
        for logsumexp, (query, key, value, output, upstream, *totals) in zip(
            sums, _each(ctx.lengths, *given, *gradients), strict=True
        ):
            found = _backward(upstream, query, key, value, output, logsumexp, 0.0, True, scale=ctx.scaling)
            for total, part in zip(totals, found, strict=True):
                total.copy_(part)
        # Heads that share keys add up what they want of them.
        of_query_NHD, *shared = gradients
        of_key_NKD, of_value_NKD = (each.unflatten(1, (key_NKD.shape[1], -1)).sum(2) for each in shared)
        dtype = query_NHD.dtype
        return of_query_NHD.to(dtype), of_key_NKD.to(dtype), of_value_NKD.to(dtype), None, None


def _attend(
    lengths: list[int],
    dropout: float,
    scaling: float | None,
    query_NHD: torch.Tensor,
    key_NKD: torch.Tensor,
    value_NKD: torch.Tensor,
) -> torch.Tensor:
    """Attend by PyTorch's own attention, which knows dropout."""
    outputs = [
        F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling
        ).transpose(1, 2)
        for query, key, value in _each(lengths, *_with_all_heads(query_NHD, key_NKD, value_NKD))
    ]
    return torch.cat(outputs, dim=1)[0]


def _with_all_heads(
    query_NHD: torch.Tensor, key_NKD: torch.Tensor, value_NKD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys and values as often as there are heads."""
    shared = query_NHD.shape[1] // key_NKD.shape[1]
    return query_NHD, key_NKD.repeat_interleave(shared, 1), value_NKD.repeat_interleave(shared, 1)


def _each(lengths: list[int], *tensors_NHD: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views of each document's part of the tensors, as attention wants them: (1, H, L, D)."""
    heads_first = (each.transpose(0, 1)[None] for each in tensors_NHD)
    return zip(*(each.split(lengths, dim=2) for each in heads_first), strict=True)


def _can(where: torch.device, dtype: torch.dtype) -> bool:
    """Whether this device has such an attention in that arithmetic."""
    if where.type != device.name():  # parts of the model lie elsewhere than they compute
        return False
    if where.type == "cuda":
        return dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(where) >= (8, 0)
    return True


def _is_full(config: Any) -> bool:
    """Whether each token attends to all before it, in all layers."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return set(kinds) == {"full_attention"} and not window


def _sample(model: Any, dtype: torch.dtype) -> torch.Tensor:
    """Last hidden states of two rows of two documents."""
    positions_T = torch.tensor([0, 1, 2, 0, 1], device=model.device)
    tokens_BT = (torch.arange(10, device=model.device) % model.config.vocab_size).view(2, 5)
    training, kind = model.training, model.device.type
    with torch.no_grad(), torch.autocast(kind, dtype, enabled=kind == "cuda" and dtype != model.dtype):
        states = model.eval().base_model(
            input_ids=tokens_BT, position_ids=positions_T.expand(2, 5), use_cache=False
        )
    model.train(training)
    return states.last_hidden_state.float()
