"""Texts to tokens: the same as the tokenizer itself gives, in batches, from a stream that nobody holds."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from leanpipe.tokens.encode import _CUTS, _PART, Encoder, backend_of, encode, split_long_texts
from tests.support.tiny_models import tiny_text, tiny_tokenizer

ENCODER = Encoder(backend_of(tiny_tokenizer()))
TRICKY = "  Naïve  café\n\n    def f(x):\n\treturn 1  # 中文 😀 ﬁ <0x41> ▁ end\n"


def ids(texts: list[str], separator: int | None = None) -> list[list[int]]:
    """The tokens of each document."""
    documents: list[list[int]] = []
    for batch in encode(ENCODER, texts, separator):
        ends = np.cumsum(batch.lengths)
        documents += [tokens.tolist() for tokens in np.split(batch.tokens, ends[:-1])]
    return documents


def look_up(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    words = encoder.split(texts)
    encoder.learn(words)
    return [np.frombuffer(tokens, np.uint32).tolist() for tokens in words.tokens()]


def test_documents_lie_between_separators():
    texts = ["a", "", TRICKY]
    expected = [tiny_tokenizer()(text).input_ids for text in texts]
    assert ids(texts) == expected
    assert ids(texts, separator=0) == [[0, *tokens, 0] for tokens in expected]
    assert list(encode(ENCODER, [], 0)) == []


def test_figures_are_counted_by_hand():
    (batch,) = encode(ENCODER, ["two  words\n", "", "naïve", " and a last"], 0)
    assert (batch.documents, batch.words, batch.bytes) == (4, 6, 11 + 0 + 6 + 11)


def test_a_document_cannot_end_itself():
    text = "A document ends with <|endoftext|>, a turn with <|im_end|>."
    tokens = ids([text])[0]
    assert min(tokens) > 2  # 0, 1 and 2 are the special tokens
    assert tiny_tokenizer().decode(tokens) == text
    assert tiny_tokenizer()("<|endoftext|>").input_ids == [0]  # the tokenizer itself is as it was


def test_truncation_and_padding_of_the_teacher_do_not_count():
    other = tiny_tokenizer.__wrapped__()  # not the one that all tests share
    other.backend_tokenizer.enable_truncation(4)
    other.backend_tokenizer.enable_padding(length=50)
    (batch,) = encode(Encoder(backend_of(other)), ["a", tiny_text()[0]], None)
    assert batch.lengths.tolist() == [1, len(tiny_tokenizer()(tiny_text()[0]).input_ids)]


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPLITTERS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "gpt2, digits": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "gpt2, space before": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "llama3": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    ),
    "sentencepiece": pre_tokenizers.Metaspace(prepend_scheme="always"),
    "bert": pre_tokenizers.BertPreTokenizer(),
    "lines": pre_tokenizers.Split("\n", "isolated"),  # tokens of several words
    "nothing": None,
}


@pytest.mark.parametrize("name", SPLITTERS)
def test_words_that_are_looked_up_have_the_tokens_of_the_whole_text(name: str):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = SPLITTERS[name]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator((text[:3000] for text in tiny_text()), trainer)
    random = np.random.default_rng(0)
    signs = [
        " ",
        " ",
        " ",
        "\n",
        "\t",
        "\r\n",
        ".",
        "a",
        "of the",
        "1",
        "'s",
        "é",
        "▁",
        "中",
        "\xa0",
        "😀",
        "-",
    ]
    texts = (
        ["".join(random.choice(signs, random.integers(0, 40))) for _ in range(500)] + tiny_text() + [TRICKY]
    )
    encoder = Encoder(backend)
    for _ in range(2):  # the second time everything is known
        found = look_up(encoder, texts)
        assert found == [backend.encode(text).ids for text in texts]
    assert (encoder._cut is None) == (name in ("lines", "nothing"))


@pytest.mark.parametrize("cut", _CUTS)
def test_words_are_the_whole_text(cut: re.Pattern[str]):
    for text in [
        "",
        " ",
        "\n \n",
        "a",
        " a",
        "a ",
        "a\n",
        "a \n b\n\nc  d",
        "\n" * 100_000,
        " " * 100_000,
        *tiny_text(),
    ]:
        words = cut.findall(text)
        assert "".join(words) == text
        assert all(word.strip() for word in words[:-1])  # white space is whole, and with what follows
    assert cut.findall("an  end.\nOf it") == (
        ["an", "  end.", "\nOf", " it"] if cut is _CUTS[0] else ["an", "  end.\nOf", " it"]
    )


def test_words_are_forgotten_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("leanpipe.tokens.encode._REMEMBERED", 1000)
    encoder = Encoder(backend_of(tiny_tokenizer()))
    for number in range(100):
        text = f"word{number} word{number}"
        assert look_up(encoder, [text]) == [tiny_tokenizer()(text).input_ids]
    assert 0 < len(encoder._known) < 20


def test_a_very_long_text_is_encoded_in_parts_and_comes_back():
    long = "word " * (_PART // 2)  # 2.5 parts
    assert [(part.first, part.last) for part in split_long_texts([long])] == [
        (True, False),
        (False, False),
        (False, True),
    ]
    assert "".join(part.text for part in split_long_texts([long])) == long
    assert all(
        part.text.startswith(" ") for part in list(split_long_texts([long]))[1:]
    )  # cut before white space
    assert [len(part.text) for part in split_long_texts(["x" * (_PART + 1)])] == [_PART, 1]
    batches = list(encode(ENCODER, ["a", long, "b"], 0))
    tokens = np.concatenate([batch.tokens for batch in batches])
    assert (tokens == 0).sum() == 6  # no separator where parts meet
    assert sum(batch.documents for batch in batches) == 3
    assert tiny_tokenizer().decode(tokens[tokens > 0]) == f"a{long}b"


def test_an_endless_stream_is_read_as_far_as_it_is_used():
    read = 0

    def stream() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "statement " * 10_000

    batches = encode(ENCODER, stream(), 0)
    assert next(batches).documents == 11  # of 100,000 characters each; a batch is of 1,048,576
    assert read == 33  # three batches are on their way
    batches.close()
