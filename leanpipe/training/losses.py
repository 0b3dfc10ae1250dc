"""Losses per token, and how they are had from hidden states without ever holding the logits of a whole batch.

Letters in names of tensors: B blocks, T tokens of a block, D width, V vocabulary, N scored tokens, C a chunk of them,
K kinds of loss.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

IGNORED = -100
"""The label of a token that is not scored."""


def cross_entropy(logits_NV: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """-ln p(label) in nats for each token, in float32; 0 where the label is -100. Shape (N,)."""
    return F.cross_entropy(logits_NV.float(), labels_N, reduction="none", ignore_index=IGNORED)


def kl_divergence(student_NV: torch.Tensor, teacher_NV: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher || student) in nats for each token, both softened by `temperature`, in float32. Shape (N,).

    Multiplied by the temperature squared, so that its gradient keeps its size whatever the temperature
    (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2).
    """
    student = F.log_softmax(student_NV.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_NV.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


_ROWS = 64
"""N is filled up to a multiple of this: CPU kernels are made anew for every size, and no two batches score as many tokens."""


def scored(hidden_BTD: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """The hidden states that predict a scored token, (N, D): token t is predicted from the state at t - 1.

    Filled up with zeros.
    """
    hidden_ND = hidden_BTD[:, :-1][labels_BT[:, 1:] != IGNORED]
    return F.pad(hidden_ND, (0, 0, 0, -len(hidden_ND) % _ROWS))


def scored_labels(labels_BT: torch.Tensor) -> torch.Tensor:
    """The scored tokens themselves, (N,), in the order of `scored`. Filled up with -100."""
    targets = labels_BT[:, 1:]
    labels_N = targets[targets != IGNORED]
    return F.pad(labels_N, (0, -len(labels_N) % _ROWS), value=IGNORED)


LossesOf = Callable[[torch.Tensor, slice], torch.Tensor]
"""From hidden states (C, D) and which rows of all N they are, the sums of each kind of loss (K,); the first is minimised."""


def sum_in_chunks(
    losses_of: LossesOf, hidden_ND: torch.Tensor, head: torch.nn.Module, chunk: int = 256
) -> torch.Tensor:
    """`losses_of` summed over all N tokens, shape (K,), holding the logits of only `chunk` tokens at a time.

    Only the first of the sums carries a gradient, to `hidden_ND` and to what `head` trains. It is computed together with
    the loss, chunk by chunk, so that nothing is computed twice (as checkpointing would) and no logits are kept.
    """
    if not torch.is_grad_enabled():
        return torch.stack([losses_of(hidden_ND[rows], rows) for rows in _chunks(len(hidden_ND), chunk)]).sum(
            0
        )
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    first, others = _SumWithGradient.apply(losses_of, chunk, hidden_ND, *trained)
    return torch.cat([first, others])


class _SumWithGradient(torch.autograd.Function):
    """The sums, with the gradient of the first computed on the way forward."""

    @staticmethod
    def forward(ctx, losses_of, chunk, hidden_ND, *trained):
        sums, of_hidden = [], torch.zeros_like(hidden_ND)
        of_trained = [torch.zeros_like(parameter) for parameter in trained]
        for rows in _chunks(len(hidden_ND), chunk):
            with torch.enable_grad():
                part = hidden_ND[rows].detach().requires_grad_()
                losses = losses_of(part, rows)
                of_hidden[rows], *parts = torch.autograd.grad(losses[0], [part, *trained])
            for total, gradient in zip(of_trained, parts, strict=True):
                total += gradient
            sums.append(losses.detach())
        ctx.save_for_backward(of_hidden, *of_trained)
        total = torch.stack(sums).sum(0)
        ctx.mark_non_differentiable(others := total[1:].clone())
        return total[:1].clone(), others

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream, _):
        return None, None, *(gradient.mul_(upstream) for gradient in ctx.saved_tensors)


def _chunks(rows: int, chunk: int) -> list[slice]:
    """At least one, though it be empty, so that a batch without a scored token has a loss of 0."""
    return [slice(start, min(start + chunk, rows)) for start in range(0, max(rows, 1), chunk)]
