"""Packing by numbers that can be counted by hand, and the masks that follow from it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from leanpipe.errors import UserError
from leanpipe.tokens.blocks import IGNORED, Blocks
from leanpipe.tokens.pack import join, pack, token_type

S = 0  # the separator
DOCUMENTS = [np.array([11, 12]), np.array([21, 22, 23, 24]), np.array([], dtype=int), np.array([31])]


def packed(length: int):
    row, starts = join(DOCUMENTS, separator=S, vocabulary=100)
    return pack(row, starts, length, separator=S)


def test_documents_lie_between_separators():
    row, starts = join(DOCUMENTS, separator=S, vocabulary=100)
    assert row.tolist() == [S, 11, 12, S, S, 21, 22, 23, 24, S, S, S, S, 31, S]
    assert starts.tolist() == [0, 4, 10, 12]


def test_blocks_of_four():
    blocks = packed(4)
    assert blocks.tokens.tolist() == [
        [S, 11, 12, S],
        [S, 21, 22, 23],
        [24, S, S, S],
    ]  # 12 of 15; 3 fill no block
    assert blocks.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 0, 1]]
    assert blocks.used == 12


def test_a_cut_document_starts_again_at_position_0():
    blocks = packed(3)
    assert blocks.tokens.tolist()[:3] == [[S, 11, 12], [S, S, 21], [22, 23, 24]]
    assert blocks.positions.tolist()[:3] == [[0, 1, 2], [0, 0, 1], [0, 1, 2]]
    assert blocks.used == 15 and len(blocks.tokens) == 5


def test_a_single_partial_block_is_filled_and_masked():
    blocks = packed(20)
    assert blocks.tokens.tolist() == [[S, 11, 12, S, S, 21, 22, 23, 24, S, S, S, S, 31, S, *[S] * 5]]
    assert blocks.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1, 0, 1, 2, *[0] * 5]]
    assert blocks.used == 15


def test_nothing_gives_one_block_of_padding():
    row, starts = join([], separator=S, vocabulary=100)
    blocks = pack(row, starts, 4, separator=7)
    assert (blocks.tokens.tolist(), blocks.positions.tolist(), blocks.used) == ([[7] * 4], [[0] * 4], 0)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 15, 16])
def test_no_token_is_lost_but_the_last_few(length: int):
    row, _ = join(DOCUMENTS, separator=S, vocabulary=100)
    blocks = packed(length)
    assert blocks.tokens.reshape(-1)[: blocks.used].tolist() == row[: blocks.used].tolist()
    assert len(row) - blocks.used < length


def test_numbers_take_the_smallest_type_that_holds_them():
    assert token_type(2**16) is np.uint16 and token_type(2**16 + 1) is np.uint32
    assert join(DOCUMENTS, S, vocabulary=49_152)[0].dtype == np.uint16
    big, starts = join([np.array([70_000], dtype=np.uint32)], S, vocabulary=100_000)
    assert big.tolist() == [S, 70_000, S]
    blocks = pack(big, starts, 3, S)
    assert (blocks.tokens.dtype, blocks.positions.dtype) == (np.uint32, np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, length in (("train", 4), ("validation", 20)):
        blocks = packed(length)
        np.save(tmp_path / f"{split}.tokens.npy", blocks.tokens)
        np.save(tmp_path / f"{split}.positions.npy", blocks.positions)
    return tmp_path


def test_blocks_are_tensors_with_masked_beginnings(folder: Path):
    blocks = Blocks(folder, "train")
    assert (len(blocks), blocks.block_length) == (3, 4)
    last = blocks[2]
    assert {name: value.tolist() for name, value in last.items()} == {
        "input_ids": [24, S, S, S],
        "position_ids": [0, 1, 0, 1],
        "labels": [IGNORED, S, IGNORED, S],
    }
    assert all(value.dtype == torch.int64 for value in last.values())


def test_padding_is_not_learnt_but_the_end_of_a_document_is(folder: Path):
    labels = Blocks(folder, "validation")[0]["labels"].tolist()
    i = IGNORED
    assert labels == [i, 11, 12, S, i, 21, 22, 23, 24, S, i, S, i, 31, S, *[i] * 5]


def test_blocks_are_a_dataset_for_torch(folder: Path):
    loader = torch.utils.data.DataLoader(Blocks(folder, "train"), batch_size=3)
    assert next(iter(loader))["input_ids"].shape == (3, 4)
    assert [len(block["labels"]) for block in Blocks(folder, "train")] == [4, 4, 4]  # iteration ends
    with pytest.raises(IndexError):
        Blocks(folder, "train")[3]


def test_changing_a_block_does_not_change_the_file(folder: Path):
    blocks = Blocks(folder, "train")
    blocks[0]["input_ids"].zero_()
    assert blocks[0]["input_ids"].tolist() == [S, 11, 12, S]


def test_a_wrong_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no train blocks"):
        Blocks(tmp_path, "train")
