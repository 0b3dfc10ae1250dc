"""Which weights of a model will be stored on a grid, and on which."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from leanpipe.compression.gguf_types import GgufType, error_weights, rounded_weights
from leanpipe.quantization_aware.fake_quantize import BLOCK, best_shares, rows_of

if TYPE_CHECKING:
    from leanpipe.compression.gguf_export import Importance

log = logging.getLogger(__name__)

Grid = dict[str, torch.Tensor]
"""By the name of each rounded layer, which share of each block's greatest weight is -8 times its scale, (B, 1)."""


def choose_grid(model: Any, keep: tuple[str, ...] = (), importance: "Importance | None" = None) -> Grid:
    """Choose the grid on which the layers of a model lose the least, but of those that `keep` names.

    With `importance`, errors of weights count as they do when a GGUF file is written with it.

    Embeddings, the output layer and layers of other lengths than multiples of 32 are not among them, as in its GGUF file.
    """
    head = model.get_output_embeddings()
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and module is not head
        and not any(f".{one}." in f".{name}." for one in keep)
    }
    grid = {
        name: best_shares(rows_of(module), _counts(rows_of(module), (importance or {}).get(name)))
        for name, module in layers.items()
        if rows_of(module).shape[1] % BLOCK == 0
    }
    if len(grid) < len(layers):
        log.info(
            "%d layers stay unrounded, for their rows are no multiple of %d", len(layers) - len(grid), BLOCK
        )
    return grid


def _counts(rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor | None:
    return None if importance is None else error_weights(rows.detach().float(), importance.to(rows.device))


@dataclass(frozen=True)
class FrozenEmbeddings:
    """Embeddings and output layer as they will be stored, and as they were."""

    whole: list[tuple[torch.nn.Parameter, torch.Tensor]]

    def restore(self) -> None:
        """Put back what they were: who stores that as it was stored here gets the same."""
        with torch.no_grad():
            for parameter, value in self.whole:
                parameter.copy_(value)


def freeze_embeddings(model: Any, kind: GgufType) -> FrozenEmbeddings:
    """Round embeddings and output layer to GGUF's type `kind`, and train them no further.

    They are kept in bfloat16 as the model will be saved, and so rounded from there.
    """
    whole = []
    weights = {
        id(one.weight): one.weight for one in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    for weight in weights.values():
        weight.requires_grad_(False)
        if weight.shape[1] % BLOCK:
            continue
        whole.append((weight, weight.detach().clone()))
        saved = weight.detach().bfloat16().float().cpu()
        with torch.no_grad():
            weight.copy_(rounded_weights(saved, kind))
    return FrozenEmbeddings(whole)
