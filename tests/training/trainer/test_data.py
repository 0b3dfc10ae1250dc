import torch

from leanpipe.training.trainer.data import (
    ShuffledEpochs,
    Subset,
    collate,
    evenly_spaced_blocks,
    scored_bytes,
    scored_tokens,
)
from tests.support.tiny_models import tiny_tokenizer


def block(tokens: list[int], labels: list[int]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor(tokens),
        "position_ids": torch.arange(len(tokens)),
        "labels": torch.tensor(labels),
    }


def test_each_pass_reads_every_block_once_and_in_another_order():
    passes = ShuffledEpochs(list(range(10)), length=25, seed=3)
    first, second, rest = (
        [passes[index] for index in part] for part in (range(10), range(10, 20), range(20, 25))
    )
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second != list(range(10))
    assert len(set(rest)) == 5
    assert [passes[index] for index in range(25)] == first + second + rest  # the same however it is come by
    assert [ShuffledEpochs(list(range(10)), 10, seed=4)[index] for index in range(10)] != first


def test_the_chosen_of_a_longer_training_begin_with_those_of_a_shorter_one():
    blocks = [{"input_ids": [number] * 4} for number in range(10)]
    few, many = ([block["input_ids"][0] for block in Subset(blocks, tokens)] for tokens in (9, 40))
    assert few == many[:3] and sorted(many) == list(range(10)) and many != sorted(many)
    assert len(Subset(blocks, 10**6)) == 10


def test_spread_takes_blocks_from_everywhere():
    blocks = [block([index] * 4, [0] * 4) for index in range(10)]
    taken = [
        [int(item["input_ids"][0]) for item in evenly_spaced_blocks(blocks, tokens)]
        for tokens in (1, 17, 20, 1000)
    ]
    assert taken == [[0], [0, 2, 4, 6, 8], [0, 2, 4, 6, 8], list(range(10))]


def test_collate_stacks():
    batch = collate([block([1, 2], [1, 2]), block([3, 4], [-100, 4])])
    assert batch["labels"].tolist() == [[1, 2], [-100, 4]]
    assert batch["position_ids"].tolist() == [[0, 1], [0, 1]]


def test_bytes_are_those_of_the_scored_tokens():
    """Two documents in one block: the first token of each has nothing before it, so its bytes do not count."""
    tokenizer = tiny_tokenizer()
    first, second = tokenizer.encode("the café"), tokenizer.encode("return")
    tokens = [0, *first, 0, 0, *second]
    labels = [-100, *first, 0, -100, *second]
    blocks = [block(tokens, labels)]
    assert scored_tokens(blocks) == len(first) + 1 + len(second)
    assert scored_bytes(blocks, tokenizer) == len("the café".encode()) + len("return")
    cut = [block(tokens[1:], [-100, *labels[2:]])]  # now "the" is first in its block
    assert tokenizer.decode(first[:1]) == "the"
    assert scored_bytes(cut, tokenizer) == len(" café".encode()) + len("return")
