"""The whole stage on real text, with a real tokenizer, and each kind that can be trained."""

from pathlib import Path

import numpy as np
import pytest

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import content_digest, digest_files
from leanpipe.corpus.tables import read_texts
from leanpipe.models.load import document_separator, load_tokenizer
from leanpipe.tokens.blocks import Blocks
from leanpipe.tokens.tokenize import TokenizeConfig, TokenizeInputs, tokenize
from tests.support.tiny_models import tiny_text, tiny_tokenizer
from tests.tokens.test_token_shards import write_split
from tests.training.blocks import Recorder


def write_texts(folder: Path, train: list[str], validation: list[str]) -> TokenizeInputs:
    tiny_tokenizer().save_pretrained(folder / "teacher")
    write_split(folder / "documents", "train", {"00000": train[::2], "00001": train[1::2]})
    write_split(folder / "documents", "validation", {"00000": validation})
    return TokenizeInputs(folder / "documents", folder / "teacher")


@pytest.fixture
def inputs(tmp_path: Path) -> TokenizeInputs:
    return write_texts(tmp_path, tiny_text()[:30], tiny_text()[30:34])


def run(inputs: TokenizeInputs, out: Path, report=None, **config) -> dict:
    out.mkdir()
    return tokenize.function(TokenizeConfig(**config), inputs, out, report or Silent())


def pieces(folder: Path, shard: str) -> list[list[int]]:
    """What of documents lies in the blocks of a shard, without padding."""
    tokens, positions = (np.load(folder / f"{shard}.{kind}.npy") for kind in ("tokens", "positions"))
    return [
        part.tolist()
        for row, places in zip(tokens, positions, strict=True)
        for part in np.split(row, np.flatnonzero(places == 0)[1:])
    ]


def test_text_comes_back_from_its_blocks(inputs: TokenizeInputs, tmp_path: Path):
    run(inputs, tmp_path / "out", block_length=2048)
    tokenizer = load_tokenizer(tmp_path / "out/tokenizer")
    separator = document_separator(tokenizer)
    found = []
    for shard in ("00000", "00001"):
        whole: list[int] = []
        for piece in pieces(tmp_path / "out/train", shard):
            whole += piece
        documents = np.array(whole)
        ends = np.flatnonzero(documents == separator)
        found += [tokenizer.decode(part[part != separator]) for part in np.split(documents, ends)]
    short = [text for text in tiny_text()[:30] if len(tokenizer(text).input_ids) <= 2046]
    assert len(short) > 15 and set(short) <= set(found)


def test_the_summary_adds_up(inputs: TokenizeInputs, tmp_path: Path):
    summary = run(inputs, tmp_path / "out", block_length=32)
    tokenizer = tiny_tokenizer()
    lengths = [len(tokenizer(text).input_ids) for text in tiny_text()[:30]]
    assert summary["tokens"] == sum(lengths) + 2 * 30 and summary["documents"] == 30
    assert summary["blocks"] == len(Blocks(tmp_path / "out", "train"))
    assert summary["padding"] == round(1 - summary["tokens"] / (32 * summary["blocks"]), 6) < 0.01
    assert summary["validation_blocks"] == len(Blocks(tmp_path / "out", "validation"))
    texts = list(read_texts(inputs.documents, "validation"))
    tokens = sum(len(tokenizer(text).input_ids) for text in texts)
    assert summary["validation_tokens"] == tokens + 2 * len(texts)
    assert summary["bytes_per_token"] == round(sum(len(text.encode()) for text in texts) / tokens, 4)
    assert summary["tokens_per_word"] == round(tokens / sum(len(text.split()) for text in texts), 4)
    assert summary["vocabulary"] == 512 and "teacher_vocabulary" not in summary


def test_the_same_text_gives_the_same_bytes(inputs: TokenizeInputs, tmp_path: Path):
    for name in ("one", "two"):
        run(inputs, tmp_path / name, tokenizer="wordpiece", vocabulary=600, block_length=32)
    one, two = (content_digest(digest_files(tmp_path / name)) for name in ("one", "two"))
    assert one == two
    assert {path.name for path in (tmp_path / "one/report").iterdir()} == {"tokens.md", "tokens.png"}


def test_progress_goes_from_nothing_to_every_document(inputs: TokenizeInputs, tmp_path: Path):
    recorder = Recorder()
    summary = run(inputs, tmp_path / "out", recorder, block_length=32)
    assert recorder.done[-1] == (34, 34, "documents")
    assert [done for done, *_ in recorder.done] == sorted(done for done, *_ in recorder.done)
    assert recorder.values == [(None, summary)]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_trained_tokenizer_in_the_stage(inputs: TokenizeInputs, tmp_path: Path, kind: str):
    summary = run(inputs, tmp_path / "out", tokenizer=kind, vocabulary=700, block_length=64)
    assert summary["vocabulary"] == 700 and summary["teacher_vocabulary"] == 512
    assert summary["bytes_per_token"] > 1.5 and summary["teacher_bytes_per_token"] > 1.5
    beside = summary["bytes_per_token"] / summary["teacher_bytes_per_token"]
    row = f"| bytes per token | {summary['bytes_per_token']} | {summary['teacher_bytes_per_token']} | {beside:.2f} |"
    assert row in (tmp_path / "out/report/tokens.md").read_text()
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


def test_a_vocabulary_too_large_for_the_corpus_ends_the_stage(inputs: TokenizeInputs, tmp_path: Path):
    with pytest.raises(UserError, match=r"the corpus supports a bpe vocabulary of \d+ tokens.* not of 50000"):
        run(inputs, tmp_path / "out", tokenizer="bpe", vocabulary=50_000)


def test_less_text_than_a_block_is_refused(tmp_path: Path):
    inputs = write_texts(tmp_path, ["short"], ["short"])
    with pytest.raises(UserError, match="tokens, less than one block of 256: give more text or lower"):
        run(inputs, tmp_path / "out")


def test_no_validation_text_is_refused(tmp_path: Path):
    inputs = write_texts(tmp_path, tiny_text()[:3], [])
    with pytest.raises(UserError, match="holds no validation text: give more documents"):
        run(inputs, tmp_path / "out")


def test_a_validation_text_shorter_than_a_block_is_padded(tmp_path: Path):
    inputs = write_texts(tmp_path, tiny_text()[:3], ["ab"])
    summary = run(inputs, tmp_path / "out")
    block = Blocks(tmp_path / "out", "validation")[0]
    learnt = (block["labels"] != -100).sum()
    assert summary["validation_tokens"] == learnt + 1  # all but the first separator
    assert summary["validation_blocks"] == 1 and len(block["labels"]) == 256
