import math

import pytest
import torch

from leanpipe.training.losses import cross_entropy, kl_divergence, scored, scored_labels, sum_in_chunks

LN3 = math.log(3.0)


def test_cross_entropy_is_minus_ln_p_and_0_where_ignored():
    logits_NV = torch.tensor([[LN3, 0.0], [LN3, 0.0], [5.0, 1.0]])  # p = (3/4, 1/4) in the first two
    losses = cross_entropy(logits_NV, torch.tensor([0, 1, -100]))
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(4), 0.0])


def test_kl_divergence_on_two_tokens():
    teacher_NV = torch.tensor([[LN3, 0.0]])  # (3/4, 1/4)
    student_NV = torch.tensor([[0.0, 0.0]])  # (1/2, 1/2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_divergence(student_NV, teacher_NV, 1.0).tolist() == pytest.approx([expected])


def test_kl_divergence_softens_both_and_keeps_its_scale():
    """At temperature 2 the logits 2 ln 3 and 0 are those of (3/4, 1/4); the result is multiplied by 4."""
    teacher_NV = torch.tensor([[2 * LN3, 0.0]])
    student_NV = torch.tensor([[0.0, 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert kl_divergence(student_NV, teacher_NV, 2.0).tolist() == pytest.approx([expected])


def test_kl_divergence_is_0_only_for_the_same_distribution():
    teacher_NV = torch.tensor([[1.0, -2.0, 0.5]])
    assert kl_divergence(teacher_NV + 7, teacher_NV, 3.0).item() == pytest.approx(0, abs=1e-6)
    assert kl_divergence(teacher_NV * 2, teacher_NV, 3.0).item() > 0.01


def test_losses_are_float32_for_bfloat16_logits():
    logits = torch.randn(3, 5, dtype=torch.bfloat16)
    assert cross_entropy(logits, torch.tensor([0, 1, 2])).dtype == torch.float32
    assert kl_divergence(logits, logits, 2.0).dtype == torch.float32


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
    filled = cross_entropy(head(scored(hidden_BTD, labels_BT)), scored_labels(labels_BT)).sum()
    alone = cross_entropy(head(hidden_BTD[0, :3]), labels_BT[0, 1:]).sum()
    assert torch.isclose(filled, alone)


def _both_ways(chunk: int):
    """Loss, another sum, and the gradients by plain autograd and in chunks, on 7 tokens."""
    results = []
    for chunked in (False, True):
        torch.manual_seed(0)
        head = torch.nn.Linear(4, 11)
        hidden_ND = torch.randn(7, 4, requires_grad=True)
        labels_N = torch.randint(11, (7,))

        def losses(hidden_CD, rows, head=head, labels_N=labels_N):
            logits = head(hidden_CD)
            return torch.stack([cross_entropy(logits, labels_N[rows]).sum(), logits.sum()])

        first, other = (
            sum_in_chunks(losses, hidden_ND, head, chunk) if chunked else losses(hidden_ND, slice(0, 7))
        )
        (3 * first).backward()
        results.append([first.detach(), other.detach(), hidden_ND.grad, head.weight.grad, head.bias.grad])
    return results


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_neither_loss_nor_gradient(chunk):
    for plain, chunked in zip(*_both_ways(chunk), strict=True):
        torch.testing.assert_close(plain, chunked)


def test_chunks_without_gradient_give_the_same_sums():
    head = torch.nn.Linear(4, 11)
    hidden_ND = torch.randn(7, 4)
    with torch.no_grad():
        sums = sum_in_chunks(lambda part, rows: head(part).sum()[None], hidden_ND, head, 2)
        torch.testing.assert_close(sums, head(hidden_ND).sum()[None])


def test_a_frozen_head_passes_its_gradient_on():
    head = torch.nn.Linear(4, 11).requires_grad_(False)
    hidden_ND = torch.randn(3, 4, requires_grad=True)
    sum_in_chunks(lambda part, rows: head(part).sum()[None], hidden_ND, head, 2)[0].backward()
    torch.testing.assert_close(hidden_ND.grad, head.weight.sum(0).expand(3, 4))


def test_a_batch_that_scores_nothing_has_a_loss_of_0():
    head = torch.nn.Linear(4, 11)
    hidden_ND = torch.zeros(0, 4, requires_grad=True)
    loss = sum_in_chunks(lambda part, rows: head(part).sum()[None], hidden_ND, head)[0]
    loss.backward()
    assert loss.item() == 0 and not head.weight.grad.any()
