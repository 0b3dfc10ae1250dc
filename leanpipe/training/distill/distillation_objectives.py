"""What a student minimises: how far it is from its teacher, who is asked at every step, or was asked long ago."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from leanpipe.training.distill.teacher_logprobs import RECORDS, LogprobFormat
from leanpipe.training.losses.chunk_sizes import FULL_KL_COPIES
from leanpipe.training.losses.chunked_loss import IGNORED, scored, scored_labels, sum_in_chunks
from leanpipe.training.losses.divergences import (
    DistillationLoss,
    fit_vocabulary,
    full_kl,
    sampled_kl,
    top_k_kl,
)
from leanpipe.training.losses.objectives import Batch, hidden_states, output_head, scored_states
from leanpipe.training.trainer.kernels import use_inference_kernels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HiddenStateMatching:
    """Which of the teacher's hidden states the student's are matched to, and how much that counts."""

    weight: float
    layers: Sequence[int]
    """For each layer of the student the teacher's layer after which its states should be the same."""
    entries: torch.Tensor | None = None
    """Which entries of the teacher's states the student has; None for all, or for as many as the student has."""


def teacher_layers_followed(kept: Sequence[int], layers: int) -> list[int]:
    """Return, for each layer of a student made of the teacher's layers `kept`, the teacher's layer to follow.

    A kept layer does the work of those left out behind it, too.
    """
    return [following - 1 for following in (*kept[1:], layers)]


class Distillation:
    """Sums the divergence from a teacher that is asked at every step and the next token's -ln p, each by its weight.

    `vocabulary` is the number of tokens that exist, if the logits of teacher or student are padded. With `hidden`, the
    mean over layers of 1 - cosine between hidden states counts too (as in DistilBERT, Sanh et al. 2019, section 2).
    """

    def __init__(
        self,
        teacher: "PreTrainedModel",
        loss: DistillationLoss,
        vocabulary: int | None = None,
        hidden: HiddenStateMatching | None = None,
    ):
        use_inference_kernels(teacher)
        self._teacher, self._loss, self._vocabulary, self._hidden = teacher, loss, vocabulary, hidden

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        labels_N, deep = scored_labels(batch["labels"]), self._hidden is not None
        with torch.no_grad():
            teacher_LND = hidden_states(self._teacher, batch, deep)
        student_LND = hidden_states(model, batch, deep)
        teacher_ND, teacher_head = teacher_LND[-1], output_head(self._teacher)

        def losses(logits_CV: torch.Tensor, rows: slice, gradient: bool) -> Any:
            width = logits_CV.shape[-1]
            teacher_CV = fit_vocabulary(teacher_head(teacher_ND[rows]), width, self._vocabulary or width)
            return full_kl(self._loss, logits_CV, teacher_CV, labels_N[rows])

        with_head = sum_in_chunks(losses, student_LND[-1], output_head(model), copies=FULL_KL_COPIES)
        sums = dict(zip(("loss", "kl", "cross_entropy"), with_head, strict=True))
        if self._hidden is None:
            return sums
        distance = _hidden_distance(student_LND, teacher_LND, self._hidden, int((labels_N != IGNORED).sum()))
        return {**sums, "loss": sums["loss"] + self._hidden.weight * distance, "hidden": distance.detach()}


def _hidden_distance(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], hidden: HiddenStateMatching, rows: int
) -> torch.Tensor:
    """1 - cosine between states (N, D), the mean over the student's layers, the sum over the first `rows` tokens."""
    total = student[-1].new_zeros((), dtype=torch.float32)
    width = student[-1].shape[-1]
    entries = torch.arange(width) if hidden.entries is None else hidden.entries
    # The first of the states are the embeddings.
    for mine_ND, layer in zip(student[1:], hidden.layers, strict=True):
        theirs_ND = teacher[layer + 1][:, entries.to(mine_ND.device)]
        total = total + (1 - torch.cosine_similarity(mine_ND.float(), theirs_ND.float(), dim=-1))[:rows].sum()
    return total / len(hidden.layers)


class CachedDistillation:
    """Sums the divergence from what a teacher predicted before (`teacher_logprobs.py`) and the next token's -ln p.

    Forward KL is learnt from the most likely tokens and the sampled ones. For the others, and if nothing was sampled, all
    but the most likely tokens are one.
    """

    def __init__(self, format: LogprobFormat, loss: DistillationLoss):
        self._format, self._loss = format, loss
        self._sampled = loss.divergence == "forward_kl" and format.tail_samples > 0

    def __call__(self, model: Any, batch: Batch) -> dict[str, torch.Tensor]:
        labels_N = scored_labels(batch["labels"])
        # One record more, for the last token of a block, which predicts nothing.
        records_BTR = torch.nn.functional.pad(batch[RECORDS], (0, 0, 0, 1))
        predicted = self._format.decode(scored(records_BTR, batch["labels"]), self._loss.temperature)

        def losses(logits_CV: torch.Tensor, rows: slice, gradient: bool) -> Any:
            ids_CJ, log_p_CJ, weights_CJ, buckets_CM = predicted.rows(rows)
            if self._sampled:
                return sampled_kl(self._loss, logits_CV, ids_CJ, log_p_CJ, weights_CJ, labels_N[rows])
            return top_k_kl(self._loss, logits_CV, ids_CJ[:, : self._format.k], buckets_CM, labels_N[rows])

        with_head = sum_in_chunks(losses, scored_states(model, batch), output_head(model))
        return dict(zip(("loss", "kl", "cross_entropy"), with_head, strict=True))
