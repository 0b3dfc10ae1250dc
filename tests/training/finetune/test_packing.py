from leanpipe.training.finetune.chat import Example
from leanpipe.training.finetune.packing import pack


def example(token: int, length: int) -> Example:
    return Example([token] * length, [-100] + [token] * (length - 1))


def test_the_longest_go_first_each_into_the_fullest_block_with_room():
    """Lengths 6, 4, 3, 3, 2 into blocks of 10: 6+4, then 3+3+2 and two of padding."""
    blocks = pack(
        [example(n, length) for n, length in ((1, 3), (2, 6), (3, 2), (4, 4), (5, 3))], length=10, padding=9
    )
    assert [block["input_ids"].tolist() for block in blocks] == [
        [2, 2, 2, 2, 2, 2, 4, 4, 4, 4],
        [1, 1, 1, 5, 5, 5, 3, 3, 9, 9],
    ]
    assert blocks[1]["position_ids"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1]
    assert blocks[1]["labels"].tolist() == [-100, 1, 1, -100, 5, 5, -100, 3, -100, -100]


def test_the_first_token_is_never_learnt_from_the_example_before_it():
    blocks = pack([Example([1, 2], [1, 2])], length=2, padding=0)
    assert blocks[0]["labels"].tolist() == [-100, 2]
