"""Put conversations of all lengths into blocks of one length, wasting little."""

import bisect
from collections.abc import Sequence

import torch

from leanpipe.training.finetune.chat import Example
from leanpipe.training.losses.chunked_loss import IGNORED

Block = dict[str, torch.Tensor]


def pack(examples: Sequence[Example], length: int, padding: int) -> list[Block]:
    """Pack examples into blocks of `length` tokens with `input_ids`, `position_ids` and `labels`, each int64 (T,).

    Best fit decreasing: the longest first, each into the fullest block that still has room (Ding et al. 2024,
    "Fewer Truncations Improve Language Modeling", section 3). No example is cut or sees another.
    """
    order = sorted(
        examples, key=lambda example: len(example.tokens), reverse=True
    )  # stable: ties keep their order
    blocks: list[list[Example]] = []
    room: list[tuple[int, int]] = []  # (free tokens, index of block), sorted
    for example in order:
        place = bisect.bisect_left(room, (len(example.tokens), -1))
        if place == len(room):
            free, index = length, len(blocks)
            blocks.append([])
        else:
            free, index = room.pop(place)
        blocks[index].append(example)
        bisect.insort(room, (free - len(example.tokens), index))
    return [_block(packed, length, padding) for packed in blocks]


def _block(examples: Sequence[Example], length: int, padding: int) -> Block:
    """Lay out one block; what is left over is padding, a document of its own that nobody learns."""
    tokens: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    for example in examples:
        tokens += example.tokens
        positions += range(len(example.tokens))
        labels += [IGNORED, *example.labels[1:]]
    left = length - len(tokens)
    return {
        "input_ids": torch.tensor(tokens + [padding] * left),
        "position_ids": torch.tensor([*positions, *range(left)]),
        "labels": torch.tensor(labels + [IGNORED] * left),
    }
