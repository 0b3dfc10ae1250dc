"""Perplexity and bits per byte against numbers computed by hand."""

import math
from itertools import pairwise

import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.evaluation.perplexity import (
    Score,
    bits_per_byte,
    bits_per_byte_error,
    perplexity,
    score_documents,
    windows,
)
from tests.support.tiny_models import tiny_llama, tiny_text, tiny_tokenizer

TEXTS = [text[:700] for text in tiny_text()[:3]]


@pytest.fixture(scope="module")
def uniform():
    """With every weight zero all logits are equal: each of the 512 tokens has probability 1/512."""
    model = tiny_llama()
    for parameter in model.parameters():
        parameter.data.zero_()
    return model


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(uniform):
    scores = score_documents(uniform, tiny_tokenizer(), TEXTS, start=0, context=32)
    assert perplexity(scores) == pytest.approx(512, rel=1e-5)


def test_bits_per_byte_of_a_uniform_model_are_nine_bits_per_token(uniform):
    scores = score_documents(uniform, tiny_tokenizer(), TEXTS, start=0, context=32)
    tokens = sum(len(tiny_tokenizer().encode(text)) for text in TEXTS)
    assert bits_per_byte(scores) == pytest.approx(
        9 * tokens / sum(len(text.encode()) for text in TEXTS), rel=1e-5
    )


def test_bytes_are_those_of_utf8(uniform):
    (score,) = score_documents(uniform, tiny_tokenizer(), ["é€"], start=0, context=32)
    assert score.bytes == 5


@pytest.mark.parametrize("stride", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 24, 25])
def test_every_token_is_scored_exactly_once_after_what_precedes_it(length, stride):
    tokens = list(range(100, 100 + length))
    cut = list(windows(tokens, start=0, context=8, stride=stride))
    assert [token for _, targets in cut for token in targets] == tokens
    for number, (inputs, targets) in enumerate(cut):
        assert len(targets) <= len(inputs) <= 8
        assert inputs[0] == 0
        read = [*inputs[1:], targets[-1]]
        assert read == tokens[tokens.index(read[0]) :][: len(read)] and read[-len(targets) :] == targets
        if number and stride < 8:
            assert len(inputs) == 8 and len(targets) <= stride


def reference_nats(model, tokens: list[int], start: int, context: int, stride: int) -> float:
    """What `score_documents` must give, written for one token at a time: no window, no cut, no sum by torch."""
    nats = 0.0
    for place, token in enumerate(tokens):
        if place < context:
            first = 0
        else:
            last = min(len(tokens), context + stride * ((place - context) // stride + 1))
            first = last - context if stride < context else place - (place - context) % stride
        seen = [start, *tokens[first:place]]
        logits = model(torch.tensor([seen])).logits[0, -1].double()
        nats += float(torch.logsumexp(logits, 0) - logits[token])
    return nats


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_bits_per_byte_with_a_sliding_window_are_those_of_a_plain_reference(stride):
    model, tokenizer = tiny_llama().double(), tiny_tokenizer()
    scores = score_documents(model, tokenizer, [TEXTS[0][:300]], start=0, context=32, stride=stride)
    with torch.inference_mode():
        nats = sum(
            reference_nats(model, list(tokenizer.encode(text)), 0, 32, stride) for text in [TEXTS[0][:300]]
        )
    expected = nats / math.log(2) / sum(len(text.encode()) for text in [TEXTS[0][:300]])
    assert bits_per_byte(scores) == pytest.approx(expected, abs=1e-6)


def test_windows_that_overlap_do_not_charge_long_documents_for_their_borders(tmp_path):
    """A model that has learnt to repeat what it read predicts a repeated text badly only where a window forgets it."""
    text = ("the quick brown fox jumps over the lazy dog and on it goes " * 12).strip()
    model, tokenizer = repeating_model(tiny_tokenizer().encode(text)), tiny_tokenizer()
    forgetful, sliding = (
        score_documents(model, tokenizer, [text], start=0, context=64, stride=stride)[0].bits_per_byte
        for stride in (64, 16)
    )
    assert sliding < 0.9 * forgetful


def repeating_model(tokens):
    """A tiny model that has seen the tokens again and again, always with something before the part that is learnt."""
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            starts = torch.randint(0, len(tokens) - 64, (4,)).tolist()
            batch = torch.tensor([[0, *tokens[start : start + 63]] for start in starts])
            logits = model(batch).logits[:, 8:-1]
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 512), batch[:, 9:].reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def test_the_loss_is_that_of_the_next_token_read_one_at_a_time():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    (score,) = score_documents(model, tokenizer, ["The rain in Spain"], start=0, context=64)
    tokens = [0, *tokenizer.encode("The rain in Spain")]
    expected = 0.0
    with torch.inference_mode():
        for end, (_, following) in enumerate(pairwise(tokens), start=1):
            last = model(torch.tensor([tokens[:end]])).logits[0, -1]
            expected -= float(last.log_softmax(-1)[following])
    assert score.nats == pytest.approx(expected, rel=1e-4)


def test_documents_do_not_see_each_other():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    alone = score_documents(model, tokenizer, TEXTS[1:2], start=0, context=64)
    assert score_documents(model, tokenizer, TEXTS, start=0, context=64)[1] == alone[0]


def test_figures_of_two_documents_by_hand():
    scores = [Score(nats=8 * math.log(2), tokens=4, bytes=8), Score(nats=6 * math.log(2), tokens=3, bytes=2)]
    assert perplexity(scores) == pytest.approx(4.0)  # 14 bits over 7 tokens are 2 bits per token
    assert bits_per_byte(scores) == pytest.approx(1.4)
    # Residuals 8 - 1.4·8 = -3.2 and 6 - 1.4·2 = 3.2; sqrt(2/1 · 2 · 3.2²) / 10 = 0.64
    assert bits_per_byte_error(scores) == pytest.approx(0.64)


def test_documents_that_are_all_alike_have_no_error():
    assert bits_per_byte_error([Score(2.0, 3, 4)] * 5) == pytest.approx(0.0)


def test_a_model_that_gives_nan_is_refused(uniform):
    broken = tiny_llama()
    broken.model.norm.weight.data[0] = math.nan
    with pytest.raises(UserError, match="nan"):
        score_documents(broken, tiny_tokenizer(), TEXTS, start=0, context=32)
