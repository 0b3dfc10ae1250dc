import math

import pytest
import torch

from leanpipe.core import device
from leanpipe.training.losses.chunked_loss import cross_entropy, scored, scored_labels, softmax, sum_in_chunks
from leanpipe.training.losses.compiled_cross_entropy import compiled_loss_and_gradient, loss_and_gradient

LN3 = math.log(3.0)


def test_cross_entropy_is_minus_ln_p_and_0_where_ignored():
    logits_NV = torch.tensor([[LN3, 0.0], [LN3, 0.0], [5.0, 1.0]])  # p = (3/4, 1/4) in the first two
    losses, _ = cross_entropy(logits_NV, torch.tensor([0, 1, -100]))
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(4), 0.0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_of_cross_entropy_is_that_of_autograd(dtype):
    labels_N = torch.tensor([2, -100, 0])
    logits_NV = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    reference_NV = logits_NV.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(reference_NV, labels_N, reduction="sum")
    expected.backward()
    losses_N, gradient_NV = cross_entropy(logits_NV, labels_N)
    plain_N, nothing = cross_entropy(logits_NV, labels_N, gradient=False)
    near = {torch.float64: 1e-12, torch.bfloat16: 1e-2}.get(dtype, 1e-5)
    for each_N in (losses_N, plain_N):
        assert each_N.sum().item() == pytest.approx(expected.item(), rel=near)
        assert each_N.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(gradient_NV.double(), reference_NV.grad, rtol=near, atol=near)
    assert nothing is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [1.0, 7.0, 12.0, -7.0])
def test_a_sure_model_still_learns_on_two_tokens(logit, dtype):
    """With logits (7, 0), p is .9991, which bfloat16 rounds to 1: -ln p is ln(1 + e^-7), and 1 - p is 1 / (1 + e^7)."""
    losses, gradient = cross_entropy(torch.tensor([[logit, 0.0]], dtype=dtype), torch.tensor([0]))
    left = 1 / (1 + math.exp(logit))
    assert losses.item() == pytest.approx(math.log1p(math.exp(-logit)), rel=5e-3)
    assert gradient[0].tolist() == pytest.approx([-left, left], rel=5e-3)


def test_bfloat16_logits_lose_nothing_where_the_model_is_sure():
    """Loss and gradient are float64's to a thousandth and to bfloat16's rounding, for p from .3 to .99999."""
    p = torch.tensor([0.3, 0.6, 0.9, 0.99, 0.999, 0.9999, 0.99999], dtype=torch.float64)
    others = torch.randn(len(p), 999, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sure = others.logsumexp(-1) + (p / (1 - p)).log()
    logits = torch.cat([sure[:, None], others], dim=-1).bfloat16()
    exact = logits.double().requires_grad_()
    labels = torch.zeros(len(p), dtype=torch.long)
    expected = torch.nn.functional.cross_entropy(exact, labels, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    losses, gradient = cross_entropy(logits.clone(), labels)
    assert torch.allclose(losses[1:].double(), expected[1:], rtol=1e-3, atol=0)
    assert torch.allclose(gradient.double(), slope, rtol=2**-7, atol=0)
    assert (gradient[:, 0] < 0).all()


def test_float16_logits_lose_no_small_probability():
    assert softmax(torch.tensor([[0.0, -20.0]], dtype=torch.float16))[0, 1] > 1e-9


def test_a_token_is_predicted_from_the_state_before_it():
    hidden_BTD = torch.arange(8.0).reshape(2, 4, 1)
    labels_BT = torch.tensor(
        [[-100, 11, -100, 13], [20, -100, 22, 23]]
    )  # 20 is first in its block: nothing is before it
    labels_N, hidden_N = scored_labels(labels_BT), scored(hidden_BTD, labels_BT)[:, 0]
    assert labels_N.tolist() == [11, 13, 22, 23] + [-100] * 60  # filled up to 64
    assert hidden_N.tolist() == [0, 2, 5, 6] + [0] * 60


def test_what_rows_are_filled_up_with_weighs_nothing():
    labels_BT = torch.tensor([[-100, 3, 1, 4]])
    hidden_BTD, head = torch.randn(1, 4, 2), torch.nn.Linear(2, 5)
    filled = cross_entropy(head(scored(hidden_BTD, labels_BT)), scored_labels(labels_BT))[0].sum()
    alone = cross_entropy(head(hidden_BTD[0, :3]), labels_BT[0, 1:])[0].sum()
    assert torch.isclose(filled, alone)


def _both_ways(chunk: int):
    """Loss, another sum, and the gradients by plain autograd and in chunks, on 7 tokens."""
    results = []
    for chunked in (False, True):
        torch.manual_seed(0)
        head = torch.nn.Linear(4, 11)
        hidden_ND = torch.randn(7, 4, requires_grad=True)
        labels_N = torch.randint(11, (7,))

        def losses(logits_CV, rows, gradient, labels_N=labels_N):
            losses_C, gradient_CV = cross_entropy(logits_CV.clone(), labels_N[rows])
            return torch.stack([losses_C.sum(), logits_CV.sum()]), gradient_CV

        if chunked:
            first, other = sum_in_chunks(losses, hidden_ND, head, chunk)
        else:
            logits_NV = head(hidden_ND)
            first = torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum")
            other = logits_NV.sum()
        (3 * first).backward()
        results.append([first.detach(), other.detach(), hidden_ND.grad, head.weight.grad, head.bias.grad])
    return results


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_neither_loss_nor_gradient(chunk):
    for plain, chunked in zip(*_both_ways(chunk), strict=True):
        torch.testing.assert_close(plain, chunked)


def total(logits_CV, rows, gradient):
    """The sum of all logits, whose gradient is 1 everywhere."""
    return logits_CV.sum()[None], torch.ones_like(logits_CV) if gradient else None


def test_chunks_without_gradient_give_the_same_sums():
    head = torch.nn.Linear(4, 11)
    hidden_ND = torch.randn(7, 4)
    with torch.no_grad():
        torch.testing.assert_close(sum_in_chunks(total, hidden_ND, head, 2), head(hidden_ND).sum()[None])


def test_a_frozen_head_passes_its_gradient_on():
    head = torch.nn.Linear(4, 11).requires_grad_(False)
    hidden_ND = torch.randn(3, 4, requires_grad=True)
    sum_in_chunks(total, hidden_ND, head, 2)[0].backward()
    torch.testing.assert_close(hidden_ND.grad, head.weight.sum(0).expand(3, 4))


def test_a_frozen_head_that_is_given_other_weights_is_converted_anew():
    head = torch.nn.Linear(8, 16, bias=False).requires_grad_(False)
    hidden_ND = torch.randn(4, 8)

    def sums() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            asked = hidden_ND.clone().requires_grad_()
            return sum_in_chunks(total, asked, head).detach()

    def total(logits_CV, rows, gradient):
        return logits_CV.float().sum()[None], torch.ones_like(logits_CV)

    before = sums()
    assert torch.equal(sums(), before)
    with torch.no_grad():
        head.weight.mul_(2)
    assert torch.allclose(sums(), 2 * before, rtol=0.02)
    head.weight.data = 4 * head.weight.data  # which no counter of versions sees
    assert torch.allclose(sums(), 8 * before, rtol=0.02)


def test_a_batch_that_scores_nothing_has_a_loss_of_0():
    head = torch.nn.Linear(4, 11)
    hidden_ND = torch.zeros(0, 4, requires_grad=True)
    loss = sum_in_chunks(total, hidden_ND, head)[0]
    loss.backward()
    assert loss.item() == 0 and not head.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compiled_for_a_gpu_is_the_loss_and_its_gradient(dtype: torch.dtype):
    """Of sure tokens too, whose probability is 1 in bfloat16."""
    logits_NV = (4 * torch.randn(9, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    labels_N = torch.tensor([3, 49, 0, -100, 7, 7, 1, 20, -100])
    logits_NV[4, 7] = 30
    leaf_NV = logits_NV.double().requires_grad_()
    expected_N = torch.nn.functional.cross_entropy(leaf_NV, labels_N, reduction="none", ignore_index=-100)
    expected_N.sum().backward()
    run = compiled_loss_and_gradient() if device.name() == "cuda" else None
    place = "cuda" if run else "cpu"
    losses_N, gradient_NV = (run or loss_and_gradient)(logits_NV.to(place), labels_N.to(place))
    assert gradient_NV.dtype == dtype
    torch.testing.assert_close(losses_N.cpu().double(), expected_N.detach(), rtol=1e-4, atol=1e-20)
    rough = 1e-4 if dtype == torch.float32 else 5e-3
    torch.testing.assert_close(gradient_NV.cpu().double(), leaf_NV.grad, rtol=rough, atol=1e-20)
