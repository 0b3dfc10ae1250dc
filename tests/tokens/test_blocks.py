"""What training reads, from files as the stage writes them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.tokens.blocks import IGNORED, Blocks
from leanpipe.tokens.row_writer import RowWriter

S = 0  # the separator
SHARDS = {
    "00000": ([[S, 11, 12, S], [S, 21, 22, 23]], [[0, 1, 2, 3], [0, 1, 2, 3]]),
    "00003": ([[24, S, S, S]], [[0, 1, 0, 1]]),
    "00010": ([[S, 31, S, S]], [[0, 1, 2, 0]]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, arrays in SHARDS.items():
        for kind, rows in zip(("tokens", "positions"), arrays, strict=True):
            with RowWriter(tmp_path / "train" / f"{name}.{kind}.npy", 4, np.uint16) as writer:
                for row in rows:
                    writer.append(np.array([row]))
    return tmp_path


def test_all_shards_are_one_dataset(folder: Path):
    blocks = Blocks(folder, "train")
    assert (len(blocks), blocks.block_length) == (4, 4)
    expected = [row for tokens, _ in SHARDS.values() for row in tokens]
    assert [block["input_ids"].tolist() for block in blocks] == expected  # iteration ends
    assert [blocks[index]["input_ids"].tolist() for index in range(-4, 0)] == expected
    for wrong in (4, -5):
        with pytest.raises(IndexError):
            blocks[wrong]


def test_beginnings_and_padding_are_not_learnt_but_ends_of_documents_are(folder: Path):
    blocks = Blocks(folder, "train")
    assert {name: value.tolist() for name, value in blocks[2].items()} == {
        "input_ids": [24, S, S, S],
        "position_ids": [0, 1, 0, 1],
        "labels": [IGNORED, S, IGNORED, S],
    }
    assert blocks[3]["labels"].tolist() == [IGNORED, 31, S, IGNORED]
    assert all(value.dtype == torch.int64 for value in blocks[2].values())


def test_blocks_are_a_dataset_for_torch(folder: Path):
    loader = torch.utils.data.DataLoader(Blocks(folder, "train"), batch_size=3)
    assert [batch["input_ids"].shape for batch in loader] == [(3, 4), (1, 4)]


def test_changing_a_block_does_not_change_the_file(folder: Path):
    blocks = Blocks(folder, "train")
    blocks[0]["input_ids"].zero_()
    assert blocks[0]["input_ids"].tolist() == [S, 11, 12, S]


def test_a_wrong_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no train blocks"):
        Blocks(tmp_path, "train")


def test_a_file_appears_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "rows.npy"
    with RowWriter(path, 3, np.uint32) as writer:
        writer.append(np.arange(6).reshape(2, 3))
        assert not path.exists()
        writer.append(np.arange(6, 9).reshape(1, 3))
    assert np.array_equal(np.load(path), np.arange(9).reshape(3, 3))
    assert np.load(path).dtype == np.uint32


def test_a_file_that_fails_or_has_no_rows_does_not_appear(tmp_path: Path):
    with pytest.raises(KeyError), RowWriter(tmp_path / "fails.npy", 3, np.uint32) as writer:
        writer.append(np.arange(3).reshape(1, 3))
        raise KeyError
    with RowWriter(tmp_path / "empty.npy", 3, np.uint32):
        pass
    assert list(tmp_path.iterdir()) == []
