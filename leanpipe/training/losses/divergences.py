"""How far a student's predictions are from its teacher's, with the gradient written out beside each.

All are sums over tokens of a vocabulary, or over buckets of tokens: then what they say of the buckets is never more than
what they would say of the tokens (the data-processing inequality). Letters in names: N tokens, M entries of a
distribution, V vocabulary, K tokens that a teacher's cache keeps, C a chunk of the N tokens.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from leanpipe.training.losses.chunked_loss import (
    IGNORED,
    at_least_float32,
    complement,
    cross_entropy,
    flat,
    log,
    log_of,
    softmax,
    zero_padded_rows,
)

DivergenceName = Literal["forward_kl", "reverse_kl", "jensen_shannon"]

FLOOR = -40.0
"""The least ln p of a teacher (4e-18): a student that predicts what its teacher never would pays for that, but no infinity."""


@dataclass(frozen=True, kw_only=True)
class DistillationLoss:
    """Which divergence, and how it is mixed with the text's own cross-entropy.

    forward_kl is KL(teacher || student) and covers all that the teacher may say; reverse_kl is KL(student || teacher)
    and keeps to what it is likely to say; jensen_shannon lies between, by `beta` (Agarwal et al. 2024, "On-Policy
    Distillation of Language Models", equation 1, arXiv 2306.13649).
    """

    divergence: DivergenceName = "forward_kl"
    beta: float = 0.5
    """Weight of the teacher in the mixture that jensen_shannon compares both with."""
    temperature: float = 1.0
    """Softens both. The divergence is multiplied by its square, so that the gradient keeps its size (Hinton et al. 2015,
    "Distilling the Knowledge in a Neural Network", section 2)."""
    kl_weight: float = 1.0
    """Weight of the divergence in the loss; the rest is the cross-entropy."""


def divergence_and_gradient(
    student_NM: torch.Tensor, teacher_NM: torch.Tensor, *, divergence: DivergenceName, beta: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute from ln p of both the divergence in nats (N,), and its gradient by the student's logits (N, M)."""
    p_NM = student_NM.exp()
    if divergence == "reverse_kl":
        apart_NM = student_NM - teacher_NM
        value_N = (p_NM * apart_NM).sum(-1)
        return value_N, p_NM.mul_(apart_NM.sub_(value_N[:, None]))
    q_NM = teacher_NM.exp()
    if divergence == "forward_kl":
        return (q_NM * (teacher_NM - student_NM)).sum(-1), p_NM.sub_(q_NM)
    middle_NM = log(beta * q_NM + (1 - beta) * p_NM)
    of_teacher_N = (q_NM * (teacher_NM - middle_NM)).sum(-1)
    apart_NM = student_NM - middle_NM
    of_student_N = (p_NM * apart_NM).sum(-1)
    value_N = beta * of_teacher_N + (1 - beta) * of_student_N
    return value_N, p_NM.mul_(apart_NM.sub_(of_student_N[:, None])).mul_(1 - beta)


def full_kl(
    loss: DistillationLoss, logits_CV: torch.Tensor, teacher_CV: torch.Tensor, labels_C: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare with all of a teacher's logits: the sums (loss, divergence, cross-entropy), and the gradient of the first."""
    temperature, scored_C = loss.temperature, labels_C != IGNORED
    student_CV, softened_CV = (_log_softmax(each, temperature) for each in (logits_CV, teacher_CV))
    value_C, slope_CV = divergence_and_gradient(
        student_CV, softened_CV.clamp_(min=FLOOR), divergence=loss.divergence, beta=loss.beta
    )
    of_text_C, of_text_CV = cross_entropy(logits_CV, labels_C, loss.kl_weight < 1)
    sums = _sums(loss, temperature**2 * value_C.where(scored_C, 0), of_text_C)
    slope_CV.mul_(loss.kl_weight * temperature * scored_C[:, None].to(slope_CV.dtype))
    return sums, slope_CV if of_text_CV is None else slope_CV.add_(of_text_CV, alpha=1 - loss.kl_weight)


def top_k_kl(
    loss: DistillationLoss,
    logits_CV: torch.Tensor,
    ids_CK: torch.Tensor,
    teacher_CM: torch.Tensor,
    labels_C: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare with a teacher's most likely tokens, all others being one: sums and gradient as of `full_kl`.

    `teacher_CM` has its softened ln p of the tokens `ids_CK` and, last, of all others: M = K + 1.

    All others are one bucket for the student too: how it spreads over them what it gives to them, nobody teaches it. So
    there is one softmax, a few gathered columns, and one factor per token for what the student gives to the bucket.
    """
    scored_C1 = (labels_C != IGNORED)[:, None]
    p_CV = softmax(logits_CV, loss.temperature)
    at_C1 = labels_C.clamp(min=0)[:, None]
    width = p_CV.shape[1]
    named, is_label_CK = flat(ids_CK, width), ids_CK == at_C1
    asked = _asked(logits_CV, p_CV, torch.cat([ids_CK, at_C1], dim=-1), loss.temperature)
    student_CM, of_label_C1 = _buckets(p_CV, named, asked.log_p_CI[:, :-1]), asked.log_p_CI[:, -1:]
    value_C, slope_CM = divergence_and_gradient(
        student_CM, teacher_CM, divergence=loss.divergence, beta=loss.beta
    )
    slope_CM *= loss.kl_weight * loss.temperature * scored_C1.to(slope_CM.dtype)
    factor_C1 = slope_CM[:, -1:] / student_CM[:, -1:].exp()
    text_C1 = torch.zeros_like(factor_C1)
    if loss.temperature == 1:
        # The text's gradient, p - 1 at the label and p elsewhere, comes along in the same pass.
        of_text_C = -of_label_C1[:, 0].where(scored_C1[:, 0], 0)
        text_C1 = (1 - loss.kl_weight) * scored_C1.to(slope_CM.dtype)
        slope_CM[:, :-1] += text_C1 * student_CM[:, :-1].exp()
        factor_C1 += text_C1
    else:
        of_text_C, of_text_CV = cross_entropy(logits_CV, labels_C, loss.kl_weight < 1)
    sums = _sums(loss, loss.temperature**2 * value_C.where(scored_C1[:, 0], 0), of_text_C)
    # In float32, for little may be left at the label.
    outside_C1 = of_label_C1.exp().masked_fill(is_label_CK.any(-1, keepdim=True), 0)
    at_label_C1 = slope_CM[:, :-1].masked_fill(~is_label_CK, 0).sum(-1, keepdim=True)
    at_label_C1 += factor_C1 * outside_C1 - text_C1
    p_CV.mul_(factor_C1.to(p_CV.dtype)).put_(named, slope_CM[:, :-1].to(p_CV.dtype))
    p_CV.put_(flat(at_C1, width), at_label_C1.to(p_CV.dtype))
    if loss.temperature != 1 and of_text_CV is not None:
        p_CV.add_(of_text_CV, alpha=1 - loss.kl_weight)
    return sums, p_CV


def sampled_kl(
    loss: DistillationLoss,
    logits_CV: torch.Tensor,
    ids_CJ: torch.Tensor,
    teacher_CJ: torch.Tensor,
    weights_CJ: torch.Tensor,
    labels_C: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare by forward KL with a sample of a teacher's tokens: sums and gradient as of `full_kl`.

    The sum over the tokens `ids_CJ` with the weights `weights_CJ` is on average the sum over all tokens.

    Its gradient is linear in the teacher's probabilities, so that this one's mean over samples is that of all logits.
    `teacher_CJ` has the teacher's softened ln p.
    """
    scored_C = labels_C != IGNORED
    at_C1 = labels_C.clamp(min=0)[:, None]
    p_CV = softmax(logits_CV, loss.temperature)
    width, plain = p_CV.shape[1], loss.temperature == 1
    asked_CI = torch.cat([ids_CJ, at_C1], dim=-1)
    asked = _asked(logits_CV, p_CV, asked_CI, loss.temperature)
    value_C = (weights_CJ * (teacher_CJ - asked.log_p_CI[:, :-1])).sum(-1).where(scored_C, 0)
    if plain:
        of_text_C = -asked.log_p_CI[:, -1].where(scored_C, 0)
    else:
        of_text_C, of_text_CV = cross_entropy(logits_CV, labels_C, loss.kl_weight < 1)
    sums = _sums(loss, loss.temperature**2 * value_C, of_text_C)
    away = loss.kl_weight * loss.temperature
    if not plain:
        p_CV.mul_(away)
    # The text's gradient is p too, less 1 at the label.
    of_text_C1 = torch.full_like(weights_CJ[:, :1], (1 - loss.kl_weight) * plain)
    taken_CI = torch.cat([away * weights_CJ, of_text_C1], dim=-1)
    p_CV.view(-1).index_add_(0, flat(asked_CI, width), -taken_CI.flatten().to(p_CV.dtype))
    # Of the likeliest of them little may be left, so that is reckoned in float32.
    is_top_CI = asked_CI == asked.top_C1
    of_top_C1 = asked.log_p_CI.gather(1, asked.top_at_C1).exp() * (1 if plain else away)
    of_top_C1 = of_top_C1 - taken_CI.masked_fill(~is_top_CI, 0).sum(-1, keepdim=True)
    p_CV.put_(flat(asked.top_C1, width), of_top_C1.to(p_CV.dtype))
    if not plain and of_text_CV is not None:
        p_CV.add_(of_text_CV, alpha=1 - loss.kl_weight)
    zero_padded_rows(p_CV, labels_C)
    return sums, p_CV


class _Asked(NamedTuple):
    """What a student gives to some tokens of each row."""

    log_p_CI: torch.Tensor
    """ln p of each, in float32 or better, exact near 1 too."""
    top_at_C1: torch.Tensor
    """Which of them is the likeliest."""
    top_C1: torch.Tensor
    """The likeliest token itself."""


def _asked(logits_CV: torch.Tensor, p_CV: torch.Tensor, asked_CI: torch.Tensor, temperature: float) -> _Asked:
    p_CI = at_least_float32(p_CV.take(flat(asked_CI, p_CV.shape[1])).view(asked_CI.shape))
    p_C1, at_C1 = p_CI.max(-1, keepdim=True)
    top_C1 = asked_CI.gather(1, at_C1)
    others_C1 = complement(logits_CV, top_C1, p_C1[:, 0], temperature)[:, None]
    return _Asked(torch.where(asked_CI == top_C1, log_of(p_C1, others_C1), log(p_CI)), at_C1, top_C1)


def _buckets(p_CV: torch.Tensor, named: torch.Tensor, log_p_CK: torch.Tensor) -> torch.Tensor:
    """ln p of the named tokens, which `log_p_CK` has, and, last, of all others (C, K + 1); the former are taken out of `p_CV`.

    Taken out before the rest is added up: what is left is often far smaller than the rounding of what is taken.
    """
    p_CV.put_(named, p_CV.new_zeros(()).expand_as(named))
    left_C1 = at_least_float32(p_CV.sum(-1, keepdim=True))
    return torch.cat([log_p_CK, log_of(left_C1, log_p_CK.exp().sum(-1, keepdim=True))], dim=-1)


def _sums(loss: DistillationLoss, divergence_C: torch.Tensor, of_text_C: torch.Tensor) -> torch.Tensor:
    away, of_text = divergence_C.sum(), of_text_C.sum()
    return torch.stack([(1 - loss.kl_weight) * of_text + loss.kl_weight * away, away, of_text])


def _log_softmax(logits_CV: torch.Tensor, temperature: float) -> torch.Tensor:
    wide = at_least_float32(logits_CV)
    return torch.log_softmax(wide if temperature == 1 else wide / temperature, dim=-1)


def fit_vocabulary(teacher_CV: torch.Tensor, width: int, vocabulary: int) -> torch.Tensor:
    """Cut or fill up a teacher's logits to the student's `width`, -inf beyond the `vocabulary` tokens of the tokenizer.

    Vocabularies are often padded to a round number. What a teacher says of tokens that do not exist is noise.
    """
    if teacher_CV.shape[-1] == width == vocabulary:
        return teacher_CV
    fitted_CV = teacher_CV.new_full((len(teacher_CV), width), -torch.inf)
    fitted_CV[:, :vocabulary] = teacher_CV[:, :vocabulary]
    return fitted_CV
