"""Every kind of tokenizer that can be trained, on real text."""

from pathlib import Path

import pytest

from leanpipe.core.errors import UserError
from leanpipe.corpus.document import Document
from leanpipe.tokens.encode import Encoder, backend_of, encode
from leanpipe.tokens.train_tokenizer import train_tokenizer
from leanpipe.tokens.training_text import TrainingTextSample
from leanpipe.tokens.vocabulary import COVERAGE, rare_and_common_characters
from tests.support.cleaned_corpus import write_documents
from tests.support.tiny_models import tiny_text
from tests.tokens.test_encode import TRICKY

KINDS = ["bpe", "wordpiece", "unigram"]


def ids(tokenizer, text: str) -> list[int]:
    (batch,) = encode(Encoder(backend_of(tokenizer)), [text], None)
    return batch.tokens.tolist()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_every_text_comes_back(kind: str, tmp_path: Path):
    train_tokenizer(kind, tiny_text()[:30], 700).save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.is_fast and len(tokenizer) == 700
    for text in [*tiny_text()[30:40], TRICKY, "", " ", "\n", "\n\n  \n", "x" * 1000, "ACGT" * 500]:
        tokens = ids(tokenizer, text) if text else []
        assert tokenizer.decode(tokens) == text.replace("▁", " " if kind == "unigram" else "▁")
        assert tokenizer.convert_tokens_to_ids("<unk>") not in tokens or kind == "bpe"


def test_a_piece_of_unigram_is_of_one_sort():
    """Letters, digits or other signs, as SentencePiece has it."""
    vocabulary = train_tokenizer("unigram", tiny_text()[:30], 700).get_vocab()
    pieces = [name.lstrip("▁") for name in vocabulary if not name.startswith("<")]
    sorts = [
        {"a" if char.isalpha() else "1" if char.isnumeric() else "." for char in name} for name in pieces
    ]
    assert len(pieces) > 400 and all(len(sort) <= 1 for sort in sorts)
    assert "▁the" in vocabulary


def test_wordpiece_keeps_words_and_forgets_white_space():
    tokenizer = train_tokenizer("wordpiece", tiny_text()[:30], 700)
    decoded = tokenizer.decode(tokenizer("The  statement\nis executed", add_special_tokens=False).input_ids)
    assert decoded == "The statement is executed"
    assert tokenizer.unk_token == "<unk>" and tokenizer("中").input_ids == [tokenizer.unk_token_id]


def test_rare_characters_get_no_token():
    rare, common = rare_and_common_characters(["ab" * 5000, "é"])
    assert COVERAGE == 0.9995 and (rare, common) == (["é"], ["a", "b"])
    assert rare_and_common_characters(["abc"]) == ([], ["a", "b", "c"])
    assert rare_and_common_characters(["aab", "", "😀"]) == ([], ["a", "b", "😀"])


def largest(kind: str, vocabulary: int, min_occurrences: int) -> int:
    """What the refusal names as the largest vocabulary."""
    often = f", if each is to occur {min_occurrences} times" if min_occurrences > 1 else ""
    sentence = rf"the corpus supports a {kind} vocabulary of (\d+) tokens{often}, not of {vocabulary}: set"
    with pytest.raises(UserError, match=sentence) as refused:
        train_tokenizer(kind, tiny_text()[:6], vocabulary, min_occurrences)
    return int(str(refused.value).split(" tokens")[0].split()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_that_the_corpus_does_not_support_is_refused(kind: str):
    """And what is named instead works, and is less where tokens are to occur more often."""
    sizes = {often: largest(kind, 50_000, often) for often in (1, 4)}
    assert 300 <= sizes[4] < sizes[1] < 50_000
    assert len(train_tokenizer(kind, tiny_text()[:6], sizes[4], 4)) == sizes[4]
    with pytest.raises(UserError):
        train_tokenizer(kind, tiny_text()[:6], sizes[1], 4)


def test_too_little_text_for_any_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"supports a bpe vocabulary of 259 tokens.*: give more text$"):
        train_tokenizer("bpe", ["short"], 300, 5)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_vocabulary_too_small_for_the_characters_is_refused(kind: str):
    with pytest.raises(UserError, match="for its characters alone, not 300: raise"):
        train_tokenizer(kind, ["".join(map(chr, range(0x4E00, 0x4F00)))], 300)


def test_a_sample_is_of_all_the_text(tmp_path: Path):
    for shard in range(4):
        texts = [f"{shard} {n} ".ljust(1000, "x") for n in range(10)]
        documents = [Document(f"{shard}-{n}", text, "a") for n, text in enumerate(texts)]
        write_documents(tmp_path / f"train/0000{shard}.parquet", documents)
    everything = TrainingTextSample(tmp_path, 10**6)
    assert len(list(everything)) == len(list(everything)) == 40
    some = [text.split()[0] for text in TrainingTextSample(tmp_path, 8_000)]
    assert 6 <= len(some) <= 9 and {some.count(shard) for shard in "0123"} <= {1, 2, 3}


def test_a_sample_holds_a_very_long_text_in_parts(tmp_path: Path):
    write_documents(tmp_path / "train/00000.parquet", [Document("0", "word " * 200_000, "a")])
    assert [len(text) for text in TrainingTextSample(tmp_path, 10**7)][:3] == [262_139, 262_140, 262_140]
    assert sum(map(len, TrainingTextSample(tmp_path, 10**7))) == 1_000_000
