"""What a training minimises: from a model and a batch to sums over the scored tokens."""

from typing import Any, Protocol

import torch

from leanpipe.core.errors import UserError
from leanpipe.models.unwrap import unwrap_adapters
from leanpipe.training.losses.chunked_loss import (
    cross_entropy,
    scored,
    scored_labels,
    sum_in_chunks,
)

Batch = dict[str, torch.Tensor]


class Objective(Protocol):
    """Anything that a trainer can minimise."""

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """Sum over the batch's scored tokens, by name: "loss", which is minimised, and the parts it is made of."""


class CrossEntropy:
    """Sums the next token's -ln p."""

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        labels_N = scored_labels(batch["labels"])

        def losses(logits_CV: torch.Tensor, rows: slice, gradient: bool) -> Any:
            losses_C, gradient_CV = cross_entropy(logits_CV, labels_N[rows], gradient)
            return losses_C.sum()[None], gradient_CV

        (loss,) = sum_in_chunks(losses, scored_states(model, batch), output_head(model))
        return {"loss": loss}


def check_head(model: Any) -> None:
    """Raise UserError if the model does more to its hidden states than its head does: the losses here would miss it."""
    causal, head = unwrap_adapters(model).eval(), output_head(model)
    tokens = torch.arange(3, device=causal.device)[None]
    with torch.no_grad():
        logits = causal(input_ids=tokens, use_cache=False).logits
        ours = head(causal.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
    if not torch.allclose(logits, ours, rtol=0.05, atol=0.05, equal_nan=True):
        raise UserError(
            f"models of type {causal.config.model_type} scale or cap their logits, which training does not do yet: "
            "choose another model"
        )


def scored_states(model: Any, batch: Batch) -> torch.Tensor:
    """Compute the last hidden states that predict a scored token, (N, D)."""
    return hidden_states(model, batch, False)[-1]


def hidden_states(model: Any, batch: Batch, all_layers: bool) -> list[torch.Tensor]:
    """Compute the hidden states that predict a scored token, each (N, D).

    The last ones, or with `all_layers` the embeddings and those after each layer; the final norm is in the last.

    `position_ids` start anew in each document and no mask is given: from that transformers makes an attention mask that
    keeps documents apart.
    """
    output = unwrap_adapters(model).base_model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        use_cache=False,
        output_hidden_states=all_layers,
    )
    states = output.hidden_states if all_layers else (output.last_hidden_state,)
    return [scored(each, batch["labels"]) for each in states]


def output_head(model: Any) -> torch.nn.Module:
    """Return the layer that makes logits of hidden states."""
    return unwrap_adapters(model).get_output_embeddings()
