"""Texts to tokens: the same as the tokenizer itself gives, in batches, from a stream that nobody holds."""

from collections.abc import Iterator

import numpy as np

from leanpipe.tokens.encode import _PART, Encoder, backend_of, encode, parts
from tests.tiny import tiny_text, tiny_tokenizer

ENCODER = Encoder(backend_of(tiny_tokenizer()))
TRICKY = "  Naïve  café\n\n    def f(x):\n\treturn 1  # 中文 😀 ﬁ <0x41> ▁ end\n"


def ids(texts: list[str], separator: int | None = None) -> list[list[int]]:
    """The tokens of each document."""
    documents: list[list[int]] = []
    for batch in encode(ENCODER, texts, separator):
        ends = np.cumsum(batch.lengths)
        documents += [tokens.tolist() for tokens in np.split(batch.tokens, ends[:-1])]
    return documents


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


def test_a_very_long_text_is_encoded_in_parts_and_comes_back():
    long = "word " * (_PART // 2)  # 2.5 parts
    assert [(part.first, part.last) for part in parts([long])] == [
        (True, False),
        (False, False),
        (False, True),
    ]
    assert "".join(part.text for part in parts([long])) == long
    assert all(part.text.startswith(" ") for part in list(parts([long]))[1:])  # cut before white space
    assert [len(part.text) for part in parts(["x" * (_PART + 1)])] == [_PART, 1]
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
    assert next(batches).documents == 11  # 1,048,576 characters
    assert read <= 44  # three batches are on their way, and one is being gathered
    batches.close()
