"""What a model forgets while it learns something else: its loss on general text, before and after."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from leanpipe.core.errors import UserError
from leanpipe.corpus.tables import count_documents, read_texts
from leanpipe.models.load import document_start
from leanpipe.tokens.text_tokens import encode_text
from leanpipe.training.finetune.chat import Example
from leanpipe.training.finetune.packing import Block, pack
from leanpipe.training.trainer.data import scored_bytes
from leanpipe.training.trainer.outcome import total_nats


@dataclass(frozen=True)
class GeneralText:
    """Blocks of general text, and the UTF-8 bytes that their scored tokens spell."""

    blocks: Sequence[Block]
    bytes: int

    def bits_per_byte(self, model: Any, arithmetic: str) -> float:
        """Measure the model as it is now, in the arithmetic it is trained in."""
        return total_nats(model, self.blocks, arithmetic) / math.log(2) / self.bytes


def general_text(
    documents: Path, tokenizer: PreTrainedTokenizerBase, tokens: int, length: int
) -> GeneralText:
    """Read about `tokens` tokens of the documents that were held out for validation, in blocks of `length`.

    They are spread over all of those documents, and the same every time.
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
    """Pieces of at most `length` tokens, evenly over all documents of the split, until there are enough."""
    left = tokens
    for piece in _spread_pieces(documents, tokenizer, length, math.ceil(tokens / length)):
        if len(piece[:left]) > 1:
            yield Example(piece[:left], piece[:left])
        left -= len(piece)
        if left <= 0:
            return


def _spread_pieces(
    documents: Path, tokenizer: PreTrainedTokenizerBase, length: int, first: int
) -> Iterator[list[int]]:
    """One piece of each document, each at another height of it, then what the documents have left, piece by piece.

    Documents are read `first` at a time, later more: each reading goes through all of the files.
    """
    first_token, order = document_start(tokenizer), _evenly(count_documents(documents, "validation"))
    rest: list[list[list[int]]] = []
    while chosen := list(itertools.islice(order, first)):
        wanted = set(chosen)
        texts = {n: text for n, text in enumerate(read_texts(documents, "validation")) if n in wanted}
        for number in chosen:
            tokens = [first_token, *encode_text(tokenizer, texts[number])]
            pieces = [tokens[start : start + length] for start in range(0, len(tokens), length)]
            start = int(len(rest) * _GOLDEN % 1 * len(pieces))
            yield pieces[start]
            rest.append(pieces[start + 1 :] + pieces[:start])
        first *= 2
    yield from (piece for round in itertools.zip_longest(*rest) for piece in round if piece)


_GOLDEN = 0.6180339887498949
"""Its multiples, less what is whole, are evenly spaced between 0 and 1, wherever one stops."""


def _evenly(count: int) -> Iterator[int]:
    """The numbers below `count`, evenly spaced wherever one stops: 0, half, a quarter, three quarters, and so on.

    J. G. van der Corput 1935, "Verteilungsfunktionen": the binary digits of 0, 1, 2 ... backwards.
    """
    digits, seen = count.bit_length(), set[int]()
    for number in range(2**digits if count else 0):
        index = int(f"{number:0{digits}b}"[::-1], 2) * count >> digits
        if index not in seen:
            seen.add(index)
            yield index
