"""What a trainer reads: blocks of tokens, over and over, in an order that its seed decides."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from leanpipe.training.losses.chunked_loss import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class BlockDataset(Protocol):
    """Packed blocks: each item has `input_ids`, `position_ids` (from 0 in each document) and `labels`, all (T,)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class TrainingData:
    """What to train and what to validate on. All blocks are of one length."""

    train: BlockDataset
    validation: Sequence[Any]
    validation_bytes: int | None = None
    """UTF-8 bytes that the scored validation tokens spell, where bits per byte are wanted."""

    def bits_per_byte(self, nats_per_token: float) -> float:
        """Convert a validation loss to a unit that does not depend on the tokenizer."""
        assert self.validation_bytes
        return nats_per_token * scored_tokens(self.validation) / math.log(2) / self.validation_bytes


class ShuffledEpochs(torch.utils.data.Dataset):
    """Reads every one of `blocks` once, then all again in another order, and so on: `length` blocks in all.

    They are cut into batches of `batch`; of those, the ones with the numbers `skipped`, from 0, are left out.
    """

    def __init__(
        self, blocks: BlockDataset, length: int, seed: int, batch: int = 1, skipped: Sequence[int] = ()
    ):
        self._blocks, self._length, self._seed = blocks, length, seed
        self._batch, self._skipped = batch, sorted(skipped)
        self._pass, self._order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        step, place = divmod(index, self._batch)
        number, place = divmod(self.batch_of(step) * self._batch + place, len(self._blocks))
        if number != self._pass:
            generator = torch.Generator().manual_seed(self._seed + number)
            self._pass, self._order = number, torch.randperm(len(self._blocks), generator=generator)
        return self._blocks[int(self._order[place])]

    def batch_of(self, step: int) -> int:
        """Return the number of the batch that step `step` reads, both from 0."""
        for skipped in self._skipped:
            step += skipped <= step
        return step


class Subset:
    """The first of `blocks` in an order that depends on nothing but their number.

    So whoever reads more of them reads all that others read, and can use what was computed for those.
    """

    def __init__(self, blocks: BlockDataset, tokens: int):
        wanted = min(len(blocks), math.ceil(tokens / len(blocks[0]["input_ids"])))
        generator = torch.Generator().manual_seed(0)
        self._blocks, self._order = blocks, torch.randperm(len(blocks), generator=generator)[:wanted]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Any:
        return self._blocks[int(self._order[index])]

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


class Joined:
    """The blocks of two datasets, one after the other."""

    def __init__(self, first: BlockDataset, second: BlockDataset):
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, index: int) -> Any:
        inside = index < len(self._first)
        return self._first[index] if inside else self._second[index - len(self._first)]


def evenly_spaced_blocks(blocks: BlockDataset, tokens: int) -> list[Any]:
    """Choose enough of the blocks, evenly spaced, to hold `tokens` tokens; all of them if there are no more."""
    wanted = min(len(blocks), math.ceil(tokens / len(blocks[0]["input_ids"])))
    return [blocks[index * len(blocks) // wanted] for index in range(wanted)]


def pad_to_multiple(blocks: Sequence[Any], number: int) -> Sequence[Any]:
    """Fill up with blocks that score nothing to a multiple of `number`, so that all processes compute as often: they need each other's shards."""
    missing = -len(blocks) % number
    if not missing:
        return blocks
    labels = torch.full_like(torch.as_tensor(blocks[0]["labels"]), IGNORED)
    return [*blocks, *[{**blocks[0], "labels": labels}] * missing]


def collate(items: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Make one batch: each entry that the items have is stacked, those of (T,) to (B, T)."""
    return {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in items[0]}


def scored_tokens(blocks: Iterable[Any]) -> int:
    """Count the tokens of the blocks that are scored; the first of a block has nothing before it and never is."""
    return sum(int((torch.as_tensor(block["labels"])[1:] != IGNORED).sum()) for block in blocks)


def scored_bytes(blocks: Iterable[Any], tokenizer: "PreTrainedTokenizerBase") -> int:
    """Count the UTF-8 bytes of the text that the scored tokens spell. Tokens that are not text, such as separators, spell none."""
    return sum(_bytes(run, tokenizer) for block in blocks for run in _scored_runs(block))


def _scored_runs(block: Any) -> Iterable[list[int]]:
    """Each stretch of scored tokens, led by the token before it."""
    tokens = torch.as_tensor(block["input_ids"]).tolist()
    labels = torch.as_tensor(block["labels"]).tolist()
    start = 0
    for index in range(1, len(tokens) + 1):
        if index == len(tokens) or labels[index] == IGNORED:
            if index - start > 1:
                yield tokens[start:index]
            start = index


def _bytes(run: list[int], tokenizer: "PreTrainedTokenizerBase") -> int:
    # Decoded with the token before it, because some tokenizers drop the space in front of a text's first word.
    whole, before = (tokenizer.decode(part, skip_special_tokens=True) for part in (run, run[:1]))
    return len(whole.encode()) - len(before.encode())
