"""Weights that were pruned to zero, and stay zero whatever the model learns afterwards."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.core.stage import Inputs, Mark
from leanpipe.core.store import Artifact

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


def is_pruned(folder: Path) -> bool:
    """Whether the model in the folder was pruned, so that its zeros must stay."""
    return (folder / PRUNED).exists()


def pruned_input(role: str) -> Mark:
    """Return what marks a pruned model in the input `role` of a stage that once filled its zeros, and holds them now."""

    def mark(inputs: Inputs) -> Mapping[str, str]:
        model = inputs.get(role)
        return {"zeros": "held"} if isinstance(model, Artifact) and is_pruned(model.path) else {}

    return mark


def check_zeros_stay(folder: Path, section: str, optimizer: str, sharding: str = "none") -> None:
    """Raise UserError for a training of the settings `section` in which zeros of a pruned model would not stay.

    They do where each weight is stepped by its own gradient.
    """
    if is_pruned(folder) and (optimizer == "muon" or sharding != "none"):
        raise UserError(
            f"the model was pruned, and its zeros would not stay zero with {section}.optimizer=muon, which mixes the weights of "
            f"a matrix, or in shards: set {section}.optimizer=adamw and {section}.sharding=none, or prune.sparsity=0"
        )


def hold_zeros(model: "PreTrainedModel", folder: Path) -> None:
    """Keep every zero of a model from a pruned one's folder at zero in training: its gradient is, and so is every step of it."""
    if not is_pruned(folder):
        return

    def held(weight: "torch.nn.Parameter") -> None:
        mask = weight.detach() != 0
        weight.register_hook(lambda gradient: gradient * mask)

    for weight in matrices(model).values():
        if weight.requires_grad:
            held(weight)


def pass_on_mark(folder: Path, out: Path) -> None:
    """Say of the model in `out`, which was made of the one in `folder`, that it was pruned, if that was."""
    if is_pruned(folder):
        shutil.copyfile(folder / PRUNED, out / PRUNED)


def share_of_zeros(model: "PreTrainedModel") -> float:
    """Return the share of zeros in the matrices."""
    weights = list(matrices(model).values())
    return sum(int((one == 0).sum()) for one in weights) / max(1, sum(one.numel() for one in weights))
