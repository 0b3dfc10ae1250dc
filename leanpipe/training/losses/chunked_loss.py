"""Losses per token, and how they are had from hidden states without ever holding the logits of a whole batch.

Letters in names of tensors: B blocks, T tokens of a block, D width, V vocabulary, N scored tokens, C a chunk of them,
K kinds of loss. Gradients are written out by hand beside the losses: autograd would go through tensors of C x V a dozen
times where two or three passes are enough, and that was half of a small student's step.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from leanpipe.training.losses.chunk_sizes import CHUNK_TOKENS
from leanpipe.training.losses.compiled_cross_entropy import compiled_loss_and_gradient

IGNORED = -100
"""The label of a token that is not scored."""


Losses = Callable[[torch.Tensor, slice, bool], tuple[torch.Tensor, torch.Tensor | None]]
"""From logits (C, V), which they may overwrite, which rows of all N these are, and whether a gradient is wanted: the sums
of each kind of loss (K,), in float32 or better, and the gradient of the first, which is minimised, by the logits."""


def cross_entropy(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, gradient: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute -ln p(label) in nats for each token (N,), and the gradient of their sum by the logits.

    A loss is 0 where the label is -100, as it may be only in the last 64 rows (`scored` fills up there).
    """
    if not gradient:
        return (
            F.cross_entropy(at_least_float32(logits_NV), labels_N, reduction="none", ignore_index=IGNORED),
            None,
        )
    if logits_NV.is_cuda and (compiled := compiled_loss_and_gradient()):
        return compiled(logits_NV, labels_N)
    p_NV = softmax(logits_NV)
    at_N1 = labels_N.clamp(min=0)[:, None]
    of_label_N = at_least_float32(p_NV.gather(1, at_N1))[:, 0]
    others_N = complement(logits_NV, at_N1, of_label_N)
    losses_N = -log_of(of_label_N, others_N).where(labels_N != IGNORED, 0)
    p_NV.put_(flat(at_N1, p_NV.shape[1]), -others_N.to(p_NV.dtype))
    zero_padded_rows(p_NV, labels_N)
    return losses_N, p_NV


def complement(
    logits_NV: torch.Tensor, at_N1: torch.Tensor, p_N: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Compute 1 - p for the probability `p_N` of one token of each row, in float32 or better; `at_N1` says of which token.

    Between 1/2 and 1 bfloat16 has steps of .004, so that a p of .999 is 1 to it: there, all that is not p is added up anew
    from the logits. That takes as long as the softmax of those rows.
    """
    others_N = 1 - p_N
    for rows in (p_N > 0.5).nonzero()[:, 0].split(_ROWS):
        apart_RV, at_R1 = at_least_float32(logits_NV[rows]), at_N1[rows]
        apart_RV.sub_(apart_RV.gather(1, at_R1))
        if temperature != 1:
            apart_RV.div_(temperature)
        apart_RV.put_(flat(at_R1, apart_RV.shape[1]), apart_RV.new_full((len(rows),), -torch.inf))
        odds_R = apart_RV.exp_().sum(-1)
        others_N[rows] = odds_R / (1 + odds_R)
    return others_N


def log_of(p: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Take logarithms of probabilities, of which `others` is 1 - p; as finite as `log`, and exact near 1 too."""
    return torch.where(p > 0.5, torch.log1p(-others.clamp(max=0.5)), log(p))


def zero_padded_rows(gradient_NV: torch.Tensor, labels_N: torch.Tensor) -> None:
    """Set to 0 the rows of tokens that are not scored.

    They are among the last, and only those are gone through: a pass through all takes as long as a softmax.
    """
    last = slice(-_ROWS, None)
    gradient_NV[last].masked_fill_((labels_N[last] == IGNORED)[:, None], 0)


def flat(columns_NK: torch.Tensor, width: int) -> torch.Tensor:
    """Return where K columns of each row lie in a flat (N x width): on CPU `scatter_` takes 300 times as long as `put_` there."""
    rows_N1 = torch.arange(len(columns_NK), device=columns_NK.device)[:, None]
    return (columns_NK + rows_N1 * width).flatten()


def softmax(logits_NV: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return probabilities of the softened logits, in bfloat16 if the logits are, else in float32 or better.

    bfloat16 has float32's range, and its gradients will be rounded to it by the matrix products anyway: half the memory
    to go through. float16 would lose every probability below 6e-8.
    """
    wide = logits_NV if logits_NV.dtype == torch.bfloat16 else at_least_float32(logits_NV)
    return torch.softmax(wide if temperature == 1 else wide / temperature, dim=-1)


def log(probabilities: torch.Tensor) -> torch.Tensor:
    """Take logarithms in float32 or better; finite for a probability that is too small to be told from 0."""
    wide = at_least_float32(probabilities)
    return wide.clamp(min=torch.finfo(torch.float32).tiny).log()


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Convert to float32 what is less precise."""
    return values if values.dtype == torch.float64 else values.float()


_ROWS = 64
"""N is filled up to a multiple of this: CPU kernels are made anew for every size, and no two batches score as many tokens."""


def scored(hidden_BTD: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Select the hidden states that predict a scored token, (N, D): token t is predicted from the state at t - 1.

    Filled up with zeros.
    """
    hidden_ND = hidden_BTD[:, :-1][labels_BT[:, 1:] != IGNORED]
    return F.pad(hidden_ND, (0, 0, 0, -len(hidden_ND) % _ROWS))


def scored_labels(labels_BT: torch.Tensor) -> torch.Tensor:
    """Select the scored tokens themselves, (N,), in the order of `scored`. Filled up with -100."""
    targets = labels_BT[:, 1:]
    labels_N = targets[targets != IGNORED]
    return F.pad(labels_N, (0, -len(labels_N) % _ROWS), value=IGNORED)


_PART = 2**13
"""Tokens of the vocabulary whose gradients are converted at once."""


def sum_in_chunks(
    losses: Losses, hidden_ND: torch.Tensor, head: torch.nn.Module, chunk: int | None = None, copies: int = 1
) -> torch.Tensor:
    """Sum `losses` of the logits that `head` makes of N hidden states, chunk by chunk; shape (K,).

    `chunk` tokens are looked at at once, by default as many as the device likes, fewer where `losses` holds several
    `copies` of the logits.

    Only the first of the sums carries a gradient, to `hidden_ND` and to what `head` trains. It is computed together with
    the loss, chunk by chunk, so that nothing is computed twice (as checkpointing would) and no logits are kept.
    """
    chunk = chunk or CHUNK_TOKENS.get(hidden_ND.device.type, CHUNK_TOKENS["cuda"]) // copies
    if not torch.is_grad_enabled():
        # No gradient of the head to add up, and losses without one hold the logits in float32: smaller chunks.
        few = _chunks(len(hidden_ND), max(1, chunk // 2))
        parts = [losses(head(hidden_ND[rows]), rows, False)[0] for rows in few]
        return torch.stack(parts).sum(0)
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    first, others = _SumWithGradient.apply(losses, chunk, head, hidden_ND, *trained)
    return torch.cat([first, others])


class _SumWithGradient(torch.autograd.Function):
    """The sums, with the gradient of the first computed on the way forward."""

    @staticmethod
    def forward(ctx, losses, chunk, head, hidden_ND, *trained):
        product = _Linear if type(head) is torch.nn.Linear and head.bias is None else _AnyHead
        with_head = product(head, hidden_ND, trained)
        sums = [with_head.losses(losses, rows) for rows in _chunks(len(hidden_ND), chunk)]
        ctx.gradients = [with_head.of_hidden_ND, *with_head.of_trained]
        total = torch.stack(sums).sum(0)
        ctx.mark_non_differentiable(others := total[1:].clone())
        return total[:1].clone(), others

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream, _):
        # Nothing else may hold them, or the one of the head, the largest tensor there is, is copied.
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, None, *(gradient.mul_(upstream) for gradient in gradients)


class _AnyHead:
    """Gradients by autograd through whatever the head is."""

    def __init__(self, head, hidden_ND, trained):
        self._head, self._hidden_ND, self._trained = head, hidden_ND, trained
        self.of_hidden_ND = torch.zeros_like(hidden_ND)
        self.of_trained = [torch.zeros_like(parameter) for parameter in trained]

    def losses(self, losses: Losses, rows: slice) -> torch.Tensor:
        with torch.enable_grad():
            part_CD = self._hidden_ND[rows].detach().requires_grad_()
            logits_CV = self._head(part_CD)
        sums, gradient_CV = losses(logits_CV.detach(), rows, True)
        self.of_hidden_ND[rows], *parts = torch.autograd.grad(
            logits_CV, [part_CD, *self._trained], gradient_CV
        )
        for total, part in zip(self.of_trained, parts, strict=True):
            total += part
        return sums


_CONVERTED = WeakTensorKeyDictionary()
"""Weights that do not learn, in another type: the output layer is a fifth of a small model, and would be converted at each step."""


def _converted(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight in `dtype`: kept if it does not learn, until it is given other numbers."""
    if weight.requires_grad or weight.dtype == dtype:
        return weight.detach().to(dtype)
    state = weight._version, weight.data_ptr(), dtype
    if weight not in _CONVERTED or _CONVERTED[weight][0] != state:
        _CONVERTED[weight] = state, weight.detach().to(dtype)
    return _CONVERTED[weight][1]


class _Linear:
    """A head that is one product: the same gradients, holding a copy of them less and no logits beside theirs."""

    def __init__(self, head, hidden_ND, trained):
        kind = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
        self._weight_VD, self._hidden_ND = _converted(head.weight, dtype), hidden_ND.to(dtype)
        self.of_hidden_ND = torch.zeros_like(hidden_ND)
        self.of_trained = [torch.zeros_like(parameter) for parameter in trained]

    def losses(self, losses: Losses, rows: slice) -> torch.Tensor:
        part_CD = self._hidden_ND[rows]
        sums, gradient_CV = losses(part_CD @ self._weight_VD.t(), rows, True)
        gradient_CV = gradient_CV.to(part_CD.dtype)  # type: ignore[union-attr]
        self.of_hidden_ND[rows] = (gradient_CV @ self._weight_VD).to(self.of_hidden_ND.dtype)
        for total_VD in self.of_trained:
            if total_VD.dtype == part_CD.dtype:
                total_VD.addmm_(gradient_CV.t(), part_CD)
            else:  # by parts, for it is as large as the head
                for total, of_part in zip(
                    total_VD.split(_PART), gradient_CV.split(_PART, dim=1), strict=True
                ):
                    total += of_part.t() @ part_CD
        return sums


def _chunks(rows: int, chunk: int) -> list[slice]:
    """Cut rows into chunks, at least one, though it be empty, so that a batch without a scored token has a loss of 0."""
    return [slice(start, min(start + chunk, rows)) for start in range(0, max(rows, 1), chunk)]
