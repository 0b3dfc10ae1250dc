"""Shards are made once: an earlier result, or an attempt that was killed, gives the same bytes as making them anew."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from leanpipe.core.report import Silent
from leanpipe.core.store import content_digest, digest_files
from leanpipe.corpus.document import Document
from leanpipe.tokens.token_shards import Packer, Shard, find_shards, make_shard, read_shard
from leanpipe.tokens.tokenize import TokenizeConfig, TokenizeInputs, tokenize
from tests.support.cleaned_corpus import write_documents
from tests.support.tiny_models import tiny_text, tiny_tokenizer


def write_split(folder: Path, split: str, shards: dict[str, list[str]]) -> None:
    for name, texts in shards.items():
        documents = [Document(f"{name}-{n}", text, "a.txt") for n, text in enumerate(texts)]
        write_documents(folder / split / f"{name}.parquet", documents)


@pytest.fixture
def inputs(tmp_path: Path) -> TokenizeInputs:
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    text = tiny_text()
    write_split(tmp_path / "documents", "train", {"00000": text[:8], "00001": text[8:20]})
    write_split(tmp_path / "documents", "validation", {"00001": text[20:23]})
    return TokenizeInputs(tmp_path / "documents", tmp_path / "teacher")


def run(inputs: TokenizeInputs, out: Path, **config) -> dict:
    out.mkdir(exist_ok=True)
    return tokenize.function(TokenizeConfig(**{"block_length": 32, **config}), inputs, out, Silent())


def digest(folder: Path) -> str:
    return content_digest(digest_files(folder))


def grown(inputs: TokenizeInputs, base: Path | None) -> TokenizeInputs:
    """The same corpus with a file more, and one that is another."""
    write_split(inputs.documents, "train", {"00001": tiny_text()[9:20], "00002": tiny_text()[30:33]})
    return TokenizeInputs(inputs.documents, inputs.teacher, base)


def test_an_earlier_result_changes_nothing_but_the_work(inputs: TokenizeInputs, tmp_path: Path):
    first = run(inputs, tmp_path / "first")
    summary = run(grown(inputs, None), tmp_path / "anew")
    again = run(grown(inputs, tmp_path / "first"), tmp_path / "based")
    assert summary == again and summary["documents"] == 8 + 11 + 3 and first["documents"] == 20
    assert digest(tmp_path / "based") == digest(tmp_path / "anew") != digest(tmp_path / "first")
    old, new = tmp_path / "first/train", tmp_path / "based/train"
    for name in ("00000.tokens.npy", "00000.positions.npy"):
        assert (old / name).samefile(new / name)
    assert not (old / "00001.tokens.npy").samefile(new / "00001.tokens.npy")


def test_a_shard_is_found_by_its_content_whatever_its_name(inputs: TokenizeInputs, tmp_path: Path):
    run(inputs, tmp_path / "first")
    (inputs.documents / "train/00000.parquet").rename(inputs.documents / "train/00007.parquet")
    run(TokenizeInputs(inputs.documents, inputs.teacher, tmp_path / "first"), tmp_path / "second")
    old, new = tmp_path / "first/train/00000.tokens.npy", tmp_path / "second/train/00007.tokens.npy"
    assert old.samefile(new)


@pytest.mark.parametrize(
    "other",
    [
        {"block_length": 33},
        {"packing": "concatenate"},
        {"max_padding": 0.5},
        {"tokenizer": "bpe", "vocabulary": 400},
    ],
)
def test_a_shard_made_otherwise_is_made_again(inputs: TokenizeInputs, tmp_path: Path, other: dict):
    run(inputs, tmp_path / "first")
    run(TokenizeInputs(inputs.documents, inputs.teacher, tmp_path / "first"), tmp_path / "second", **other)
    run(inputs, tmp_path / "anew", **other)
    assert digest(tmp_path / "second") == digest(tmp_path / "anew")
    old, new = tmp_path / "first/train/00000.tokens.npy", tmp_path / "second/train/00000.tokens.npy"
    assert not old.samefile(new)


def test_a_killed_attempt_goes_on_at_its_shard(inputs: TokenizeInputs, tmp_path: Path):
    run(inputs, tmp_path / "whole")
    killed = tmp_path / "killed/train"
    shutil.copytree(tmp_path / "whole/train", killed)
    (killed / "00001.json").unlink()  # killed after the tokens, while the positions were written
    (killed / "00001.positions.npy").rename(killed / "00001.positions.part")
    (killed / "00007.tokens.part").touch()
    before = (killed / "00000.tokens.npy").stat()
    run(inputs, tmp_path / "killed")
    assert (killed / "00000.tokens.npy").stat() == before
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_files_that_cannot_be_linked_are_copied(inputs: TokenizeInputs, tmp_path: Path):
    shared = Path("/dev/shm")
    if not shared.exists() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    run(inputs, tmp_path / "first")
    base = shared / tmp_path.name
    shutil.copytree(tmp_path / "first", base)
    try:
        run(TokenizeInputs(inputs.documents, inputs.teacher, base), tmp_path / "second")
    finally:
        shutil.rmtree(base)
    assert digest(tmp_path / "second") == digest(tmp_path / "first")


def test_what_a_shard_counts(tmp_path: Path):
    texts = ["a b", "", "statement " * 100]
    write_split(tmp_path, "train", {"00000": texts})
    tokens = [len(tiny_tokenizer()(text).input_ids) for text in texts]
    packer = Packer(tiny_tokenizer(), 64, "best_fit", 0.01)
    done: list[int] = []
    place = tmp_path / "out" / "00000"
    shard = make_shard(packer, tmp_path / "train/00000.parquet", place, {}, done.append)
    assert (shard.documents, shard.words, shard.bytes) == (3, 102, 1003)
    assert shard.tokens == sum(tokens) + 6
    assert shard.blocks == -(-shard.tokens // 64) == len(np.load(f"{place}.tokens.npy"))
    assert shard.lengths == {2: 1, 4: 1, 2 ** int(np.log2(tokens[2] + 2)): 1}
    assert sum(done) == 3 and read_shard(place) == shard == Shard(**shard.model_dump())
    assert find_shards(place.parent) == {shard.key: place}
    make_shard(packer, tmp_path / "train/00000.parquet", place, {shard.key: place}, done.append)
    assert sum(done) == 6


def test_what_is_missing_or_of_another_version_holds_no_shards(tmp_path: Path):
    (tmp_path / "00000.json").write_text('{"documents": 3}')
    assert find_shards(tmp_path / "missing") == find_shards(tmp_path) == {}


MEASURE = """
import resource, sys
from pathlib import Path
from leanpipe.tokens import encode, token_shards as shards
encode._BATCH, encode._PART, encode._REMEMBERED = 2**15, 2**14, 2**20
shards._WINDOW, shards._WINDOW_BLOCKS = 2**14, 1
from tests.support.tiny_models import tiny_text, tiny_tokenizer
from tests.tokens.test_token_shards import write_split
folder = Path(sys.argv[1])
packer = shards.Packer(tiny_tokenizer(), 256, "best_fit", 0.01)
peaks = []
for name, repeats in (("small", 2), ("large", 20)):
    write_split(folder, name, {"00000": [text[:2000] for text in tiny_text()] * repeats})
    shard = packer.make(folder / name / "00000.parquet", folder / "out" / name, "", lambda count: None)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(shard.bytes, *peaks)
"""


def test_memory_does_not_grow_with_a_shard(tmp_path: Path):
    shown = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    size, small, large = map(int, shown.split())
    assert size > 2_000_000
    assert (large - small) * 1024 < 20_000_000  # all its encodings would be more than 100 MB
