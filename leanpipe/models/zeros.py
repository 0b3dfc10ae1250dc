"""Weights that were pruned to zero, and stay zero while a model learns."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PRUNED = "pruned.json"
"""In the folder of a model that was pruned: how. What is zero in its matrices stays so in training."""


def matrices(model: "PreTrainedModel") -> "dict[str, torch.nn.Parameter]":
    """Return the matrices of the model's layers, without embeddings, norms and head, by name."""
    outside = {id(one.weight) for one in (model.get_input_embeddings(), model.get_output_embeddings())}
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.dim() == 2 and id(weight) not in outside and ".wpe." not in f".{name}."
    }


def hold_zeros(model: "PreTrainedModel") -> None:
    """Keep every zero of the matrices at zero in training: its gradient is, and so is what an optimizer makes of it."""

    def held(weight: "torch.nn.Parameter") -> None:
        mask = weight.detach() != 0
        weight.register_hook(lambda gradient: gradient * mask)

    for weight in matrices(model).values():
        held(weight)


def share_of_zeros(model: "PreTrainedModel") -> float:
    """Return the share of zeros in the matrices."""
    weights = list(matrices(model).values())
    return sum(int((one == 0).sum()) for one in weights) / max(1, sum(one.numel() for one in weights))
