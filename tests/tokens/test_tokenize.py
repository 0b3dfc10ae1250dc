"""The whole stage on real text, with a real tokenizer, and each kind that can be trained."""

from pathlib import Path

import numpy as np
import pytest

from leanpipe.errors import UserError
from leanpipe.models.load import document_separator, load_tokenizer
from leanpipe.report import Silent
from leanpipe.store import content_digest, digest_files
from leanpipe.text.document import Document
from leanpipe.text.tables import read_texts, write_documents
from leanpipe.tokens.blocks import Blocks
from leanpipe.tokens.encode import encode
from leanpipe.tokens.tokenize import TokenizeConfig, TokenizeInputs, tokenize
from leanpipe.tokens.train import COVERAGE, _characters, train_tokenizer
from tests.tiny import tiny_text, tiny_tokenizer

TRICKY = "  Naïve  café\n\n    def f(x):\n\treturn 1  # 中文 😀 ﬁ <0x41> ▁ end\n"


def write_texts(folder: Path, train: list[str], validation: list[str]) -> Path:
    folder.mkdir()
    for split, texts in (("train", train), ("validation", validation)):
        write_documents(
            folder / f"{split}.parquet", [Document(str(n), text, "a.txt") for n, text in enumerate(texts)]
        )
    return folder


@pytest.fixture
def inputs(tmp_path: Path) -> TokenizeInputs:
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    return TokenizeInputs(
        write_texts(tmp_path / "documents", tiny_text()[:30], tiny_text()[30:34]), tmp_path / "teacher"
    )


def run(inputs: TokenizeInputs, out: Path, **config) -> dict:
    out.mkdir()
    return tokenize.function(TokenizeConfig(**config), inputs, out, Silent())


def test_text_comes_back_from_its_blocks(inputs: TokenizeInputs, tmp_path: Path):
    summary = run(inputs, tmp_path / "out", block_length=32)
    tokenizer = load_tokenizer(tmp_path / "out/tokenizer")
    row = np.load(tmp_path / "out/train.tokens.npy").reshape(-1)
    separator = document_separator(tokenizer)
    assert (row[0], separator) == (0, 0)
    ends = np.flatnonzero(row == separator)
    texts = [
        tokenizer.decode(row[start + 1 : end]) for start, end in zip(ends[::2], ends[1::2], strict=False)
    ]
    assert texts == tiny_text()[: len(texts)] and len(texts) >= 29
    assert summary["tokens"] == row.size == summary["blocks"] * 32
    assert summary["validation_tokens"] == np.load(tmp_path / "out/validation.tokens.npy").size
    assert summary["vocabulary"] == 512


def test_bytes_per_token_are_of_the_validation_text(inputs: TokenizeInputs, tmp_path: Path):
    summary = run(inputs, tmp_path / "out", block_length=32)
    texts = list(read_texts(inputs.documents / "validation.parquet"))
    tokens = sum(
        len(tokenizer_ids) for tokenizer_ids in tiny_tokenizer()(texts, add_special_tokens=False).input_ids
    )
    assert summary["bytes_per_token"] == round(sum(len(text.encode()) for text in texts) / tokens, 4)


def test_the_same_text_gives_the_same_bytes(inputs: TokenizeInputs, tmp_path: Path):
    for name in ("one", "two"):
        run(inputs, tmp_path / name, tokenizer="wordpiece", vocabulary=600, block_length=32)
    one, two = (content_digest(digest_files(tmp_path / name)) for name in ("one", "two"))
    assert one == two
    assert {path.name for path in (tmp_path / "one/report").iterdir()} == {"tokens.md", "tokens.png"}


def test_a_document_cannot_end_itself():
    tokenizer = tiny_tokenizer()
    text = "A document ends with <|endoftext|>, a turn with <|im_end|>."
    ids = encode(tokenizer, [text]).documents[0]
    assert ids.min() > 2  # 0, 1 and 2 are the special tokens
    assert tokenizer.decode(ids) == text
    assert tokenizer("<|endoftext|>").input_ids == [0]  # the tokenizer itself is as it was


def test_encoding_ignores_truncation_and_padding_of_the_teacher(tmp_path: Path):
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    tokenizer = load_tokenizer(tmp_path / "teacher")
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    expected = [tiny_tokenizer()(text).input_ids for text in ("a", tiny_text()[0])]
    assert [ids.tolist() for ids in encode(tokenizer, ["a", tiny_text()[0]]).documents] == expected


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_trained_tokenizer_in_the_stage(inputs: TokenizeInputs, tmp_path: Path, kind: str):
    summary = run(inputs, tmp_path / "out", tokenizer=kind, vocabulary=700, block_length=64)
    assert summary["vocabulary"] == 700
    assert summary["bytes_per_token"] > 1.5 and summary["teacher_bytes_per_token"] > 1.5
    tokenizer = load_tokenizer(tmp_path / "out/tokenizer")
    separator = document_separator(tokenizer)
    assert tokenizer.convert_ids_to_tokens(separator) == "<|endoftext|>"
    assert Blocks(tmp_path / "out", "train")[0]["input_ids"][0] == separator
    assert Blocks(tmp_path / "out", "train")[0]["input_ids"].max() < 700
    chat = [{"role": "user", "content": "Hi"}]
    shown = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(shown, add_special_tokens=False).input_ids
    turns = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>")}
    assert (ids.count(turns["<|im_start|>"]), ids.count(turns["<|im_end|>"])) == (2, 1)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_trained_tokenizer_gives_every_text_back(kind: str):
    tokenizer = train_tokenizer(kind, tiny_text()[:30], 700)
    for text in [*tiny_text()[30:40], TRICKY, "", " ", "\n"]:
        ids = encode(tokenizer, [text]).documents[0]
        assert tokenizer.decode(ids) == text.replace("▁", " " if kind == "unigram" else "▁")
        assert tokenizer.convert_tokens_to_ids("<unk>") not in ids or kind == "bpe"


def test_wordpiece_keeps_words_and_forgets_white_space():
    tokenizer = train_tokenizer("wordpiece", tiny_text()[:30], 700)
    decoded = tokenizer.decode(tokenizer("The  statement\nis executed", add_special_tokens=False).input_ids)
    assert decoded == "The statement is executed"
    assert tokenizer.unk_token == "<unk>" and tokenizer("中").input_ids == [tokenizer.unk_token_id]


def test_rare_characters_get_no_token():
    rare, common = _characters(["ab" * 5000, "é"])
    assert COVERAGE == 0.9995 and (rare, common) == (["é"], ["a", "b"])
    assert _characters(["abc"]) == ([], ["a", "b", "c"])


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_vocabulary_that_the_corpus_cannot_fill_is_refused(kind: str):
    with pytest.raises(UserError, match=rf"supports a {kind} vocabulary of \d+ tokens, not of 50000"):
        train_tokenizer(kind, tiny_text()[:3], 50_000)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_vocabulary_too_small_for_the_characters_is_refused(kind: str):
    with pytest.raises(UserError, match="for its characters alone, not 300: raise"):
        train_tokenizer(kind, ["".join(map(chr, range(0x4E00, 0x4F00)))], 300)


def test_less_text_than_a_block_is_refused(tmp_path: Path):
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    documents = write_texts(tmp_path / "documents", ["short"], ["short"])
    with pytest.raises(UserError, match="tokens, less than one block of 256: give more text or lower"):
        run(TokenizeInputs(documents, tmp_path / "teacher"), tmp_path / "out")


def test_a_validation_text_shorter_than_a_block_is_padded(tmp_path: Path):
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    documents = write_texts(tmp_path / "documents", tiny_text()[:3], ["ab"])
    summary = run(TokenizeInputs(documents, tmp_path / "teacher"), tmp_path / "out")
    block = Blocks(tmp_path / "out", "validation")[0]
    learnt = (block["labels"] != -100).sum()
    assert summary["validation_tokens"] == learnt + 1  # all but the first separator
    assert summary["validation_blocks"] == 1 and len(block["labels"]) == 256
