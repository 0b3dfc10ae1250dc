"""What is kept of a teacher's predictions, against all of them in float64."""

import math

import pytest
import torch

from leanpipe.training.distill.teacher_logprobs import LogprobFormat, largest, sample, softened_tail
from leanpipe.training.losses.divergences import FLOOR


def logits(vocabulary: int, rows: int = 64) -> torch.Tensor:
    """As a language model's: a few likely tokens, many unlikely ones."""
    generator = torch.Generator().manual_seed(0)
    return 2.5 * torch.randn(rows, vocabulary, generator=generator)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("vocabulary", "k", "bytes"),
    [(200, 8, 20), (512, 8, 28), (49_152, 38, 118), (65_537, 38, 156), (20, 38, 44)],
)
def test_a_record_takes_as_many_bytes_as_ids_need(vocabulary, k, bytes):
    format = LogprobFormat(tail_samples=0, top_k=k, vocabulary=vocabulary, blocks=1, block_length=2)
    records = format.encode(logits(vocabulary, 2), seeded())
    assert records.shape == (2, bytes) and records.dtype == torch.uint8
    assert (format.record_bytes, format.bytes) == (bytes, bytes)


@pytest.mark.parametrize("vocabulary", [200, 512, 70_000])
def test_the_most_likely_tokens_come_back_nearly_as_they_were(vocabulary):
    format = LogprobFormat(tail_samples=0, top_k=8, vocabulary=vocabulary, blocks=1, block_length=2)
    rows = logits(vocabulary)
    ids, _, _, log_p = format.decode(format.encode(rows, seeded()), temperature=1)
    exact = torch.log_softmax(rows.double(), -1)
    assert torch.equal(ids, exact.topk(8).indices)
    torch.testing.assert_close(log_p[:, :-1].double(), exact.gather(1, ids), rtol=0, atol=0.06)
    lost = (log_p.double().exp() * (log_p.double() - _buckets(exact, ids))).sum(-1)
    assert lost.abs().max() < 5e-4  # nats of KL


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3, 2.0, 4.0, 50.0])
def test_softened_they_are_nearly_what_all_logits_softened_are(temperature):
    format = LogprobFormat(tail_samples=0, top_k=16, vocabulary=3_000, blocks=1, block_length=2)
    rows = logits(3_000)
    ids, _, _, log_p = format.decode(format.encode(rows, seeded()), temperature)
    exact = _buckets(torch.log_softmax(rows.double() / temperature, -1), ids)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(len(rows)))
    near = 0.015 if temperature >= 1 else 0.1
    assert (log_p.double().exp() - exact.exp()).abs().max() < near


def test_a_tail_of_equal_tokens_is_exact_at_every_power():
    """100 tokens of 0.001: the sum of p^s is 100 x 0.001^s."""
    known = torch.tensor([[math.log(100 * 0.001), math.log(100 * 0.001**0.5)]])
    for power in (0.0, 0.1, 0.5, 0.8, 1.0, 2.0):
        expected = math.log(100) + power * math.log(0.001)
        assert softened_tail(known, torch.tensor([math.log(0.001)]), 100, power).item() == pytest.approx(
            expected
        )


def test_a_vocabulary_that_is_kept_whole_has_no_tail():
    format = LogprobFormat(tail_samples=0, top_k=50, vocabulary=20, blocks=1, block_length=2)
    ids, _, _, log_p = format.decode(format.encode(logits(20), seeded()), 1)
    assert ids.shape == (64, 20) and (log_p[:, -1] < FLOOR + 0.1).all()


def test_padding_of_the_logits_is_no_prediction():
    format = LogprobFormat(tail_samples=0, top_k=8, vocabulary=100, blocks=1, block_length=2)
    rows = logits(100)
    padded = torch.cat([rows, torch.full((64, 28), 99.0)], -1)
    assert torch.equal(format.encode(padded, seeded()), format.encode(rows, seeded()))


def test_a_sure_teacher_stays_sure():
    rows = torch.zeros(1, 512)
    rows[0, 7] = 30.0
    format = LogprobFormat(tail_samples=0, top_k=8, vocabulary=512, blocks=1, block_length=2)
    ids, _, _, log_p = format.decode(format.encode(rows, seeded()), 1)
    assert ids[0, 0] == 7 and log_p[0, 0].item() == pytest.approx(0, abs=1e-5)


def test_a_teacher_without_a_doubt_has_a_tail_of_nothing():
    rows = torch.zeros(1, 512)
    rows[0, 7] = 500.0
    format = LogprobFormat(tail_samples=4, top_k=2, vocabulary=512, blocks=1, block_length=2)
    predicted = format.decode(format.encode(rows, seeded()), 1)
    assert predicted.ids_NJ.max() < 512 and predicted.weights_NJ[0, 0].item() == pytest.approx(1)
    assert predicted.weights_NJ[0, 1:].sum().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("vocabulary", "count"), [(20, 20), (300, 5), (1024, 40), (2000, 300)])
def test_the_largest_are_those_of_topk(vocabulary, count):
    p = torch.softmax(logits(vocabulary), -1)
    values, ids = largest(p, count)
    expected = p.topk(count)
    torch.testing.assert_close(values, expected.values, rtol=0, atol=0)
    assert torch.equal(p.gather(1, ids), values) and all(len(set(row)) == count for row in ids.tolist())


def test_an_even_sample_is_unbiased_and_misses_nothing_large():
    p = torch.tensor([[0.0, 0.3, 0.05, 0.5, 0.0, 0.15]])
    drawn = torch.cat([sample(p, 4, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    counts = torch.nn.functional.one_hot(drawn, 6).sum(1).float()
    torch.testing.assert_close(counts.mean(0) / 4, p[0], rtol=0, atol=0.01)
    assert (counts[:, 3] == 2).all() and (counts[:, 1] >= 1).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_most_likely_and_sampled_tokens_stand_for_all(temperature):
    """The mean over samples of what each token weighs is what the teacher gives to it, softened."""
    format = LogprobFormat(tail_samples=16, top_k=4, vocabulary=300, blocks=1, block_length=2)
    rows = logits(300, 2)
    found = torch.zeros(2, 300)
    for seed in range(1000):
        predicted = format.decode(format.encode(rows, torch.Generator().manual_seed(seed)), temperature)
        found.scatter_add_(1, predicted.ids_NJ, predicted.weights_NJ / 1000)
    torch.testing.assert_close(found, torch.softmax(rows / temperature, -1), rtol=0.25, atol=0.004)
    torch.testing.assert_close(predicted.weights_NJ.sum(-1), torch.ones(2))
    exact = torch.log_softmax(rows / temperature, -1).gather(1, predicted.ids_NJ)
    torch.testing.assert_close(predicted.log_p_NJ, exact, rtol=0, atol=0.1)


def _buckets(log_p: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    p = log_p.exp()
    top = p.gather(1, ids)
    return torch.cat([top, p.scatter(1, ids, 0).sum(-1, keepdim=True)], -1).log()
