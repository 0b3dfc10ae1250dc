"""What a training minimises: from a model and a batch to sums over the scored tokens."""

from typing import TYPE_CHECKING, Any, Protocol

import torch

from leanpipe.errors import UserError
from leanpipe.training.losses import (
    IGNORED,
    cross_entropy,
    kl_divergence,
    scored,
    scored_labels,
    sum_in_chunks,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = dict[str, torch.Tensor]


class Objective(Protocol):
    """What a trainer minimises."""

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """Sums over the batch's scored tokens, by name: "loss", which is minimised, and the parts it is made of."""


class CrossEntropy:
    """The next token's -ln p."""

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        head = _head(model)
        labels_N = scored_labels(batch["labels"])

        def losses(hidden_CD: torch.Tensor, rows: slice) -> torch.Tensor:
            return cross_entropy(head(hidden_CD), labels_N[rows]).sum()[None]

        (loss,) = sum_in_chunks(losses, _scored_states(model, batch), head)
        return {"loss": loss}


class Distillation:
    """(1 - kl_weight) x the next token's -ln p + kl_weight x KL(teacher || student)."""

    def __init__(self, teacher: "PreTrainedModel", temperature: float, kl_weight: float):
        self._teacher, self._temperature, self._kl_weight = teacher, temperature, kl_weight

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        head, teacher_head = _head(model), _head(self._teacher)
        labels_N = scored_labels(batch["labels"])
        with torch.no_grad():
            teacher_ND = _scored_states(self._teacher, batch)

        def losses(hidden_CD: torch.Tensor, rows: slice) -> torch.Tensor:
            logits_CV = head(hidden_CD)
            with torch.no_grad():
                teacher_CV = teacher_head(teacher_ND[rows])
            entropy = cross_entropy(logits_CV, labels_N[rows]).sum()
            kl_C = kl_divergence(logits_CV, teacher_CV, self._temperature)
            kl = kl_C[labels_N[rows] != IGNORED].sum()
            return torch.stack([(1 - self._kl_weight) * entropy + self._kl_weight * kl, kl, entropy])

        loss, kl, entropy = sum_in_chunks(losses, _scored_states(model, batch), head)
        return {"loss": loss, "kl": kl, "cross_entropy": entropy}


def check_head(model: Any) -> None:
    """Raise UserError if the model does more to its hidden states than its head does: the losses here would miss it."""
    causal, head = _causal(model).eval(), _head(model)
    tokens = torch.arange(3, device=causal.device)[None]
    with torch.no_grad():
        logits = causal(input_ids=tokens, use_cache=False).logits
        ours = head(causal.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
    if not torch.allclose(logits, ours, rtol=0.05, atol=0.05, equal_nan=True):
        raise UserError(
            f"models of type {causal.config.model_type} scale or cap their logits, which training does not do yet: "
            "choose another model"
        )


def _scored_states(model: Any, batch: Batch) -> torch.Tensor:
    """The last hidden states that predict a scored token, (N, D).

    `position_ids` start anew in each document and no mask is given: from that transformers makes an attention mask that
    keeps documents apart.
    """
    backbone = _causal(model).base_model
    output = backbone(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    return scored(output.last_hidden_state, batch["labels"])


def _head(model: Any) -> torch.nn.Module:
    return _causal(model).get_output_embeddings()


def _causal(model: Any) -> Any:
    """The language model itself, from within an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
