"""Packing by numbers that can be counted by hand, by what must hold for all, and by what a model makes of it."""

import numpy as np
import pytest
import torch

from leanpipe.tokens.pack import best_fit, lay_out_blocks, plan_packing, token_type
from tests.support.tiny_models import tiny_llama

S = 0  # the separator
DOCUMENTS = [[S, 11, 12, S], [S, 21, 22, 23, 24, S], [S, S], [S, 31, S]]


def packed(size: int, packing="best_fit", max_padding=1.0, documents=DOCUMENTS, vocabulary=100):
    row = np.concatenate([np.array(tokens, np.uint32) for tokens in documents])
    pieces = plan_packing(np.array([len(tokens) for tokens in documents]), size, packing, max_padding)
    arrays = zip(*lay_out_blocks(row, pieces, size, S, vocabulary), strict=True)
    return tuple(np.concatenate(array) for array in arrays)


def test_the_rest_of_a_long_document_goes_where_it_fits_best():
    tokens, positions = packed(4)
    assert tokens.tolist() == [
        [S, 11, 12, S],
        [S, 21, 22, 23],
        [24, S, S, S],  # the rest of 2, and the document of 2
        [S, 31, S, S],  # 3, and one of padding
    ]
    assert positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 2, 0]]


def test_no_document_is_cut_that_a_block_can_hold():
    tokens, _ = packed(6)
    assert tokens.tolist() == [[S, 11, 12, S, S, S], [S, 21, 22, 23, 24, S], [S, 31, S, S, S, S]]


def test_concatenation_cuts_everywhere():
    tokens, positions = packed(6, "concatenate")
    assert tokens.tolist() == [[S, 11, 12, S, S, 21], [22, 23, 24, S, S, S], [S, 31, S, S, S, S]]
    assert positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]


def test_the_emptiest_blocks_are_joined_where_the_padding_would_be_too_much():
    documents = [
        list(range(10 * n, 10 * n + 6)) for n in range(1, 6)
    ]  # five of 6 in blocks of 10: 40 % padding
    assert len(packed(10, documents=documents)[0]) == 5
    assert len(packed(10, max_padding=0.4, documents=documents)[0]) == 5
    tokens, positions = packed(10, max_padding=0.25, documents=documents)
    assert tokens.tolist() == [
        [10, 11, 12, 13, 14, 15, 20, 21, 22, 23],  # three of them in two blocks
        [24, 25, 30, 31, 32, 33, 34, 35, S, S],
        [40, 41, 42, 43, 44, 45, S, S, S, S],
        [50, 51, 52, 53, 54, 55, S, S, S, S],
    ]
    assert positions[1].tolist() == [0, 1, 0, 1, 2, 3, 4, 5, 0, 0]
    assert len(packed(10, max_padding=0, documents=documents)[0]) == 3


def test_best_fit_is_the_algorithm_of_that_name():
    """7 opens, 6 opens, 3 goes to 7 (3 free, not 4), 2 to 6, 2 to 6, 1 opens."""
    assert best_fit(np.array([3, 6, 2, 1, 7, 2]), 10).tolist() == [0, 1, 1, 2, 0, 1]
    assert best_fit(np.array([], int), 10).tolist() == []
    assert sorted(np.bincount(best_fit(np.full(10, 3), 10))) == [1, 3, 3, 3]


def one_by_one(lengths: list[int], size: int) -> int:
    """Blocks that best fit decreasing needs, as a textbook has it."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [space for space in free if space >= length]
        if fitting:
            free[free.index(min(fitting))] -= length
        else:
            free.append(size - length)
    return len(free)


@pytest.mark.parametrize("seed", range(40))
def test_what_holds_for_all_documents(seed: int):
    random = np.random.default_rng(seed)
    size = int(random.integers(1, 30))
    lengths = random.integers(1, 3 * size, random.integers(1, 120))
    documents = [list(part) for part in np.split(np.arange(1, lengths.sum() + 1), np.cumsum(lengths)[:-1])]
    rests = [size] * int((lengths // size).sum()) + [int(rest) for rest in lengths % size if rest]
    least = -(-int(lengths.sum()) // size)
    for packing, max_padding in (("best_fit", 1), ("best_fit", 0.05), ("concatenate", 1)):
        tokens, positions = packed(size, packing, max_padding, documents, 10_000)
        every = tokens[tokens > 0]
        assert np.array_equal(np.sort(every), np.arange(1, lengths.sum() + 1))  # each token once
        assert (positions[tokens == S] == 0).all()
        # Wherever a position goes on, so does the document: by one token.
        goes_on = positions[:, 1:] > 0
        assert (np.diff(tokens.astype(int), axis=1)[goes_on] == 1).all()
        assert (np.diff(positions.astype(int), axis=1)[goes_on] == 1).all()
        firsts = tokens[:, 0]
        assert (np.diff(firsts.astype(int)) > 0).all()  # in the order of the documents
        if packing == "concatenate":
            assert len(tokens) == least
        elif max_padding == 1:
            assert len(tokens) == one_by_one(rests, size)
            starts = {document[0] for document in documents} | {
                token for document in documents for token in document[::size]
            }
            assert set(tokens[(positions == 0) & (tokens > 0)]) == starts  # cut only at whole blocks
        else:
            assert (tokens == S).mean() <= max_padding or len(tokens) == least


def test_a_million_short_documents_are_packed_as_those_of_a_few_lengths():
    lengths = np.random.default_rng(0).integers(2, 40, 1_000_000)
    pieces = plan_packing(lengths, 2048, "best_fit", 0.01)
    assert pieces.total == -(-int(lengths.sum()) // 2048)
    assert np.bincount(pieces.blocks, pieces.lengths).max() == 2048


def test_nothing_gives_no_block():
    assert (
        list(lay_out_blocks(np.array([], int), plan_packing(np.array([], int), 4, "best_fit", 0), 4, S, 100))
        == []
    )


def test_numbers_take_the_smallest_type_that_holds_them():
    assert token_type(2**16) is np.uint16 and token_type(2**16 + 1) is np.uint32
    tokens, positions = packed(3, documents=[[S, 70_000, S]], vocabulary=100_000)
    assert tokens.tolist() == [[S, 70_000, S]]
    assert (tokens.dtype, positions.dtype) == (np.uint32, np.uint16)


def test_changing_one_document_does_not_change_what_a_model_makes_of_another():
    documents = [[S, *range(10, 20), S], [S, *range(30, 37), S], [S, *range(50, 60), S]]
    model = tiny_llama()

    def logits(documents: list[list[int]], positioned: bool) -> torch.Tensor:
        tokens, positions = packed(34, documents=documents, vocabulary=512)
        assert len(tokens) == 1
        given = {"position_ids": torch.from_numpy(positions.astype(int))} if positioned else {}
        with torch.no_grad():
            return model(torch.from_numpy(tokens.astype(int)), use_cache=False, **given).logits[0]

    changed = [[S, *range(210, 220), S], *documents[1:]]
    alone = logits([documents[1]], positioned=True)[:9]
    assert torch.allclose(logits(documents, True)[12:33], logits(changed, True)[12:33], atol=1e-6)
    assert torch.allclose(logits(documents, True)[12:21], alone, atol=1e-5)
    assert not torch.allclose(logits(documents, True)[:12], logits(changed, True)[:12], atol=1e-3)
    assert not torch.allclose(logits(documents, False)[12:33], logits(changed, False)[12:33], atol=1e-3)
