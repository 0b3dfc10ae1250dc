"""Which layers a student keeps, by what it costs to leave them out: measured one after the other, not told by one pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError
from leanpipe.models.count import with_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TRIED = 8
"""Of the layers that are left, so many are tried each time: those that cost least when they were last tried."""


def least_divergent(
    model: "PreTrainedModel", layers: str, blocks: Sequence[Any], kept: int
) -> tuple[list[int], list[float]]:
    """Choose `kept` of the model's layers, and tell what each of those left out cost (nats per token, in their order).

    `layers` is the name of the list that holds them. One after the other that layer goes without which the predictions
    on `blocks` stay nearest to the whole model's, by KL divergence (Kim et al. 2024, "Shortened LLaMA", section 3, arXiv
    2402.02834, who choose all at once). Raises UserError if a divergence is no number.
    """
    import torch

    left, costs, found = list(range(model.config.num_hidden_layers)), dict[int, float](), list[float]()
    with torch.inference_mode():
        whole = [_log_p(model, block) for block in blocks]
        while len(left) > kept:
            tried = sorted(left, key=lambda layer: costs.get(layer, 0.0))[: _TRIED if costs else None]
            for layer in tried:
                with only_layers(model, layers, [one for one in left if one != layer]):
                    costs[layer] = _divergence(model, blocks, whole)
            gone = min(tried, key=costs.__getitem__)
            found.append(costs.pop(gone))
            left.remove(gone)
    if not all(cost == cost for cost in found):
        raise UserError(
            "the teacher's predictions on the corpus came out as NaN: its weights are damaged or overflow in this device's "
            "arithmetic; fetch the teacher again, or give another one"
        )
    return left, found


def readings(layers: int, kept: int) -> int:
    """Count how many times `least_divergent` reads the blocks, with all layers or fewer."""
    return 1 + sum(left if left == layers else min(_TRIED, left) for left in range(layers, kept, -1))


@contextmanager
def only_layers(model: "PreTrainedModel", layers: str, kept: Sequence[int]) -> Iterator[None]:
    """Leave all but some of the model's layers out of what it computes, while the context lasts."""
    import torch

    parent, _, name = layers.rpartition(".")
    holder = model.get_submodule(parent)
    whole, config = getattr(holder, name), holder.config
    setattr(holder, name, torch.nn.ModuleList([whole[index] for index in kept]))
    holder.config = with_layers(config, list(kept))  # which says, too, what kind of attention each layer has
    try:
        yield
    finally:
        setattr(holder, name, whole)
        holder.config = config


def _log_p(model: "PreTrainedModel", block: Any) -> "torch.Tensor":
    ids, positions = (block[name][None].to(model.device) for name in ("input_ids", "position_ids"))
    return model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float().log_softmax(-1)


def _divergence(model: "PreTrainedModel", blocks: Sequence[Any], whole: Sequence["torch.Tensor"]) -> float:
    """Mean KL divergence of the model from what it predicted whole, in nats per token."""
    sums = [
        float((log_p.exp() * (log_p - _log_p(model, block))).sum())
        for block, log_p in zip(blocks, whole, strict=True)
    ]
    return sum(sums) / sum(map(len, whole))
