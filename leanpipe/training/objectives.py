"""What a training minimises: from a model and a batch to sums over the scored tokens."""

from typing import TYPE_CHECKING, Any, Protocol

import torch

from leanpipe.errors import UserError
from leanpipe.training.divergences import Divergence, fitted, to_cache, to_teacher
from leanpipe.training.losses import (
    CHUNK,
    cross_entropy,
    scored,
    scored_labels,
    sum_in_chunks,
)
from leanpipe.training.predictions import RECORDS, Format

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = dict[str, torch.Tensor]
_DENSE_CHUNK = CHUNK // 4  # a full-vocabulary divergence holds several tensors of C x V in float32


class Objective(Protocol):
    """What a trainer minimises."""

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """Sums over the batch's scored tokens, by name: "loss", which is minimised, and the parts it is made of."""


class CrossEntropy:
    """The next token's -ln p."""

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        labels_N = scored_labels(batch["labels"])

        def losses(logits_CV: torch.Tensor, rows: slice, gradient: bool) -> Any:
            losses_C, gradient_CV = cross_entropy(logits_CV, labels_N[rows], gradient)
            return losses_C.sum()[None], gradient_CV

        (loss,) = sum_in_chunks(losses, _scored_states(model, batch), _head(model))
        return {"loss": loss}


class Distillation:
    """A share of the divergence from a teacher that is asked at every step, and the rest of the next token's -ln p.

    `vocabulary` is the number of tokens that exist, if the logits of teacher or student are padded.
    """

    def __init__(self, teacher: "PreTrainedModel", how: Divergence, vocabulary: int | None = None):
        self._teacher, self._how, self._vocabulary = teacher, how, vocabulary

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        teacher_head = _head(self._teacher)
        labels_N = scored_labels(batch["labels"])
        with torch.no_grad():
            teacher_ND = _scored_states(self._teacher, batch)

        def losses(logits_CV: torch.Tensor, rows: slice, gradient: bool) -> Any:
            width = logits_CV.shape[-1]
            teacher_CV = fitted(teacher_head(teacher_ND[rows]), width, self._vocabulary or width)
            return to_teacher(self._how, logits_CV, teacher_CV, labels_N[rows])

        with_head = sum_in_chunks(losses, _scored_states(model, batch), _head(model), _DENSE_CHUNK)
        return dict(zip(("loss", "kl", "cross_entropy"), with_head, strict=True))


class CachedDistillation:
    """The same from what a teacher predicted long ago: its most likely tokens, and all others as one (`predictions.py`)."""

    def __init__(self, format: Format, how: Divergence):
        self._format, self._how = format, how

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        labels_N = scored_labels(batch["labels"])
        # One record more, for the last token of a block, which predicts nothing.
        records_BTR = torch.nn.functional.pad(batch[RECORDS], (0, 0, 0, 1))
        ids_NK, teacher_NM = self._format.decode(scored(records_BTR, batch["labels"]), self._how.temperature)

        def losses(logits_CV: torch.Tensor, rows: slice, gradient: bool) -> Any:
            return to_cache(self._how, logits_CV, ids_NK[rows], teacher_NM[rows], labels_N[rows])

        with_head = sum_in_chunks(losses, _scored_states(model, batch), _head(model))
        return dict(zip(("loss", "kl", "cross_entropy"), with_head, strict=True))


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
