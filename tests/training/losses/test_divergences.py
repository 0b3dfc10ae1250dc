"""Each divergence and its gradient against a plain formula in float64 that autograd differentiates."""

import math

import pytest
import torch

from leanpipe.training.losses.divergences import (
    DistillationLoss,
    divergence_and_gradient,
    fit_vocabulary,
    full_kl,
    sampled_kl,
    top_k_kl,
)

KINDS = ("forward_kl", "reverse_kl", "jensen_shannon")
LN3 = math.log(3.0)
N, V, K = 6, 23, 5


def plain(kind: str, p: torch.Tensor, q: torch.Tensor, beta: float) -> torch.Tensor:
    """From probabilities of the student and the teacher, summed over the last dimension."""

    def kl(a, b):
        return torch.special.xlogy(a, a / b).sum(-1)

    if kind == "forward_kl":
        return kl(q, p)
    if kind == "reverse_kl":
        return kl(p, q)
    middle = beta * q + (1 - beta) * p
    return beta * kl(q, middle) + (1 - beta) * kl(p, middle)


def reference(how: DistillationLoss, logits_NV, teacher_NV, labels_N, buckets) -> list[torch.Tensor]:
    """Loss, divergence, cross-entropy, and the loss's gradient; `buckets` turns (N, V) into (N, M)."""
    logits_NV = logits_NV.double().requires_grad_()
    p, q = (
        buckets(torch.softmax(each.double() / how.temperature, -1))
        for each in (logits_NV, teacher_NV.double())
    )
    away = how.temperature**2 * plain(how.divergence, p, q, how.beta)[labels_N != -100].sum()
    text = torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum", ignore_index=-100)
    loss = how.kl_weight * away + (1 - how.kl_weight) * text
    loss.backward()
    return [loss.detach(), away.detach(), text.detach(), logits_NV.grad]


def material(seed: int = 0):
    """Logits of both, (N, V), float64, and labels, one of them unscored."""
    generator = torch.Generator().manual_seed(seed)
    logits_NV, teacher_NV = (
        3 * torch.randn(N, V, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    labels_N = torch.randint(V, (N,), generator=generator)
    labels_N[2] = -100
    return logits_NV, teacher_NV, labels_N


def kept(teacher_NV: torch.Tensor, temperature: float = 1.0):
    """Ids (N, K) of a teacher's most likely tokens, and ln p of them and of the rest (N, K + 1)."""
    q_NV = torch.softmax(teacher_NV / temperature, -1)
    top_NK, ids_NK = q_NV.topk(K, dim=-1)
    return ids_NK, torch.cat([top_NK, 1 - top_NK.sum(-1, keepdim=True)], -1).log()


def in_buckets(ids_NK: torch.Tensor):
    def buckets(p_NV):
        top_NK = p_NV.gather(1, ids_NK)
        return torch.cat([top_NK, p_NV.sum(-1, keepdim=True) - top_NK.sum(-1, keepdim=True)], -1)

    return buckets


WAYS = [
    DistillationLoss(divergence=divergence, beta=beta, temperature=temperature, kl_weight=kl_weight)
    for divergence, beta in (
        ("forward_kl", 0.5),
        ("reverse_kl", 0.5),
        ("jensen_shannon", 0.5),
        ("jensen_shannon", 0.1),
    )
    for temperature in (1.0, 2.5)
    for kl_weight in (1.0, 0.7)
]


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_against_a_teacher_it_is_the_plain_formula(how):
    logits_NV, teacher_NV, labels_N = material()
    expected = reference(how, logits_NV, teacher_NV, labels_N, lambda p: p)
    sums, gradient_NV = full_kl(how, logits_NV, teacher_NV, labels_N)
    torch.testing.assert_close([*sums, gradient_NV], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_against_a_cache_it_is_the_plain_formula_over_buckets(how):
    logits_NV, teacher_NV, labels_N = material()
    ids_NK, teacher_NM = kept(teacher_NV, how.temperature)
    expected = reference(how, logits_NV, teacher_NV, labels_N, in_buckets(ids_NK))
    sums, gradient_NV = top_k_kl(how, logits_NV, ids_NK, teacher_NM, labels_N)
    torch.testing.assert_close([*sums, gradient_NV], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("how", [each for each in WAYS if each.divergence == "forward_kl"], ids=str)
@pytest.mark.parametrize("every", [True, False])
def test_against_a_sample_it_is_the_plain_formula(how, every):
    """With every token in it, it is KL itself; with some, the same sum over them, which may name a token twice."""
    logits_NV, teacher_NV, labels_N = material()
    log_q_NV = torch.log_softmax(teacher_NV / how.temperature, -1)
    ids_NJ = torch.arange(V).expand(N, V) if every else torch.tensor([[3, 1, 4, 1, 5]]).expand(N, 5)
    log_q_NJ = log_q_NV.gather(1, ids_NJ)
    weights_NJ = log_q_NJ.exp() / log_q_NJ.exp().sum(-1, keepdim=True)
    sums, gradient_NV = sampled_kl(how, logits_NV, ids_NJ, log_q_NJ, weights_NJ, labels_N)
    leaf_NV = logits_NV.clone().requires_grad_()
    log_p_NJ = torch.log_softmax(leaf_NV / how.temperature, -1).gather(1, ids_NJ)
    away = how.temperature**2 * (weights_NJ * (log_q_NJ - log_p_NJ)).sum(-1)[labels_N != -100].sum()
    text = torch.nn.functional.cross_entropy(leaf_NV, labels_N, reduction="sum", ignore_index=-100)
    loss = how.kl_weight * away + (1 - how.kl_weight) * text
    loss.backward()
    expected = [loss.detach(), away.detach(), text.detach(), leaf_NV.grad]
    torch.testing.assert_close([*sums, gradient_NV], expected, rtol=1e-9, atol=1e-9)
    if every:
        whole, _ = full_kl(how, logits_NV, teacher_NV, labels_N)
        torch.testing.assert_close(sums, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", WAYS, ids=str)
def test_in_less_precise_arithmetic_it_is_nearly_that(how, dtype):
    logits_NV, teacher_NV, labels_N = (
        each.to(dtype) if each.is_floating_point() else each for each in material()
    )
    ids_NK, teacher_NM = kept(teacher_NV.float(), how.temperature)
    near = 1e-5 if dtype == torch.float32 else 2e-2
    for expected, (sums, gradient_NV) in (
        (
            reference(how, logits_NV, teacher_NV, labels_N, lambda p: p),
            full_kl(how, logits_NV, teacher_NV, labels_N),
        ),
        (
            reference(how, logits_NV, teacher_NV, labels_N, in_buckets(ids_NK)),
            top_k_kl(how, logits_NV, ids_NK, teacher_NM, labels_N),
        ),
    ):
        assert sums.dtype == torch.float32
        for mine, theirs in zip([*sums, gradient_NV], expected, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=near, atol=near)


def test_kl_on_two_tokens():
    """Teacher (3/4, 1/4), student (1/2, 1/2); softened by 2 and multiplied by 4, logits 2 ln 3 and 0 are the same."""
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    labels = torch.tensor([0])
    for temperature in (1.0, 2.0):
        teacher = torch.tensor([[temperature * LN3, 0.0]])
        sums, _ = full_kl(DistillationLoss(temperature=temperature), torch.zeros(1, 2), teacher, labels)
        assert sums[1].item() == pytest.approx(temperature**2 * forward)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_predicts_the_same_is_at_0_and_stays(kind):
    log_p = torch.log_softmax(torch.tensor([[1.0, -2.0, 0.5]]), -1)
    value, slope = divergence_and_gradient(log_p, log_p.clone(), divergence=kind)
    assert value.item() == pytest.approx(0, abs=1e-6) and slope.abs().max() < 1e-6


def test_jensen_shannon_goes_over_into_both_others():
    """Divided by beta, it tends to forward KL as beta goes to 0, to reverse KL as the other's does."""
    student, teacher = (torch.log_softmax(each / 6, -1) for each in material()[:2])
    for kind, beta, small in (("forward_kl", 1e-4, 1e-4), ("reverse_kl", 1 - 1e-4, 1e-4)):
        limit, _ = divergence_and_gradient(student, teacher, divergence=kind)
        nearly, _ = divergence_and_gradient(student, teacher, divergence="jensen_shannon", beta=beta)
        torch.testing.assert_close(nearly / small, limit, rtol=2e-2, atol=2e-2)


def test_a_tail_far_below_the_rounding_of_the_rest_still_has_its_gradient():
    logits = torch.zeros(1, V)
    logits[0, :K] = 30.0
    ids, teacher = torch.arange(K)[None], torch.tensor([[0.19] * K + [0.05]]).log()
    _, gradient = top_k_kl(DistillationLoss(), logits.clone(), ids, teacher, torch.tensor([0]))
    assert gradient[0, K:].sum().item() == pytest.approx(-0.05, rel=1e-4)


def test_what_a_teacher_never_says_costs_a_student_no_infinity():
    teacher = torch.tensor([[0.0, -torch.inf, 1.0]])
    for kind in KINDS:
        sums, gradient = full_kl(
            DistillationLoss(divergence=kind), torch.zeros(1, 3), teacher.clone(), torch.tensor([0])
        )
        assert sums.isfinite().all() and gradient.isfinite().all() and gradient[0, 1] > 0


def test_padded_vocabularies_are_compared_where_tokens_exist():
    """Three tokens exist; the teacher's logits are padded to 5, and one of the padding is very sure."""
    teacher = torch.tensor([[1.0, 2.0, 3.0, 99.0, -1.0]])
    assert fit_vocabulary(teacher, 3, 3).tolist() == [[1, 2, 3]]
    assert fit_vocabulary(teacher, 4, 3).tolist() == [[1, 2, 3, -torch.inf]]
    assert fit_vocabulary(teacher[:, :3], 4, 3).tolist() == [[1, 2, 3, -torch.inf]]
    assert fit_vocabulary(teacher[:, :3], 3, 3) is not None


def sure(kind: str, beta: float) -> tuple[float, float]:
    """The divergence, and its gradient by the first logit, of a student (7, 0) from a teacher (8, 0), in Python's floats.

    With m the mixture's first probability. A student's p changes by p (1 - p) with its first logit.
    """
    p, q = 1 / (1 + math.exp(-7)), 1 / (1 + math.exp(-8))
    m = beta * q + (1 - beta) * p

    def kl(a, b):
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    def slope(a, b):
        """Of kl(a, b) by a."""
        return math.log(a / b) - math.log((1 - a) / (1 - b))

    if kind == "forward_kl":
        return kl(q, p), p - q
    if kind == "reverse_kl":
        return kl(p, q), slope(p, q) * p * (1 - p)
    return beta * kl(q, m) + (1 - beta) * kl(p, m), (1 - beta) * slope(p, m) * p * (1 - p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("kl_weight", [1.0, 0.5])
@pytest.mark.parametrize("named", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_sure_student_still_has_to_learn_on_two_tokens(kind, named, kl_weight, label, dtype):
    """p is .9991, which bfloat16 rounds to 1; a cache of one token names the likely one, or the other."""
    how = DistillationLoss(divergence=kind, beta=0.25, kl_weight=kl_weight)
    value, slope = sure(kind, 0.25)
    logits, teacher = torch.tensor([[7.0, 0.0]], dtype=dtype), torch.tensor([[8.0, 0.0]])
    text = math.log1p(math.exp(-7)) if label == 0 else 7 + math.log1p(math.exp(-7))
    of_text = -1 / (1 + math.exp(7)) if label == 0 else 1 / (1 + math.exp(-7))
    expected = kl_weight * slope + (1 - kl_weight) * of_text
    log_q, ids, labels = torch.log_softmax(teacher, -1), torch.tensor([[named]]), torch.tensor([label])
    ways = {
        "all": full_kl(how, logits.clone(), teacher.clone(), labels),
        "kept": top_k_kl(how, logits.clone(), ids, log_q[:, [named, 1 - named]], labels),
    }
    if kind == "forward_kl":
        every = torch.tensor([[named, 1 - named]])
        log_q_every = log_q.gather(1, every)
        ways["sampled"] = sampled_kl(how, logits.clone(), every, log_q_every, log_q_every.exp(), labels)
    for way, (sums, gradient) in ways.items():
        # Where the divergence is a small difference of large terms, bfloat16's 3 digits of 1 - p show.
        assert sums[1].item() == pytest.approx(value, rel=0.05, abs=2e-6), way
        assert sums[2].item() == pytest.approx(text, rel=0.01), way
        assert gradient[0, 0].item() == pytest.approx(expected, rel=0.02), way
        assert gradient[0, 1].item() == pytest.approx(-expected, rel=0.02), way
