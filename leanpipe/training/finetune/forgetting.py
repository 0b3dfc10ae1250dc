"""What a model forgets while it learns something else: its loss on general text, before and after."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.corpus.tables import read_texts
from leanpipe.models.load import document_separator
from leanpipe.training.finetune.chat import Example
from leanpipe.training.finetune.packing import Block, pack
from leanpipe.training.losses.objectives import CrossEntropy
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.data import collate, scored_bytes


@dataclass(frozen=True)
class GeneralText:
    """Blocks of general text, and the UTF-8 bytes that their scored tokens spell."""

    blocks: Sequence[Block]
    bytes: int

    def bits_per_byte(self, model: Any, config: TrainingConfig) -> float:
        """Measure the model as it is now, in the arithmetic it is trained in."""
        return total_nats(model, self.blocks, config.arithmetic) / math.log(2) / self.bytes


def total_nats(model: Any, blocks: Sequence[Block], arithmetic: str) -> float:
    """Sum -ln p of all scored tokens of the blocks under the model as it is now."""
    dtype, total = device.dtype_of(arithmetic), 0.0
    training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(device.name(), dtype, enabled=dtype != torch.float32):
        for block in blocks:
            batch = {name: value.to(device.name()) for name, value in collate([block]).items()}
            total += float(CrossEntropy()(model, batch)["loss"])
    model.train(training)
    return total


def general_text(
    documents: Path, tokenizer: PreTrainedTokenizerBase, tokens: int, length: int
) -> GeneralText:
    """Read about `tokens` tokens of the documents that were held out for validation, in blocks of `length`.

    Raises UserError if there are none.
    """
    pieces = list(_pieces(documents, tokenizer, tokens, length))
    if not pieces:
        raise UserError(
            f"{documents} has no held-out text to measure forgetting on: hold out more (clean.split.validation), or set "
            "finetune.general_tokens to 0"
        )
    blocks = pack(pieces, length, tokenizer.eos_token_id)
    return GeneralText(blocks, scored_bytes(blocks, tokenizer))


def _pieces(
    documents: Path, tokenizer: PreTrainedTokenizerBase, tokens: int, length: int
) -> Iterator[Example]:
    """Documents between separators, cut at every `length` tokens, until there are enough."""
    separator, left = document_separator(tokenizer), tokens
    for text in read_texts(documents, "validation"):
        read = [separator, *tokenizer.encode(text, add_special_tokens=False)][:left]
        for start in range(0, len(read), length):
            piece = read[start : start + length]
            if len(piece) > 1:
                yield Example(piece, piece)
        left -= len(read)
        if left <= 0:
            return
