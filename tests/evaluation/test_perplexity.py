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


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 24, 25])
def test_every_token_is_scored_exactly_once_after_what_precedes_it(length):
    tokens = list(range(100, 100 + length))
    cut = list(windows(tokens, start=0, context=8))
    assert [token for _, targets in cut for token in targets] == tokens
    for inputs, targets in cut:
        assert len(inputs) == len(targets) <= 8
        assert inputs == [0, *targets[:-1]]


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
