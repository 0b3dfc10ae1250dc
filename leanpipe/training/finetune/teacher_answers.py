"""Conversations that a teacher answered, mixed among those that were given: sequence-level distillation of answers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.training.finetune.chat import Example, encode_all
from leanpipe.training.finetune.instructions import read_instructions
from leanpipe.training.losses.chunked_loss import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Examples = list[Example]
"""What a conversation became: one example, or more."""


def read_answers(
    path: Path, tokenizer: "PreTrainedTokenizerBase", max_length: int, held_out: Sequence[Examples]
) -> list[Examples]:
    """Read the conversations that a teacher answered, without those whose question is held out: that would be known then.

    Raises UserError if none is left.
    """
    encoded = encode_all(read_instructions(path).conversations, tokenizer, max_length)
    known = _questions(held_out)
    found = [one for one in encoded.conversations if not _questions([one]) & known]
    if not found:
        raise UserError(
            f"none of the answers that the teacher wrote ({path}) can be learnt: {encoded.describe() or 'all are held out'}; set "
            "finetune.written_share to 0"
        )
    return found


def mix_answers(given: Sequence[Examples], written: Sequence[Examples], share: float) -> list[Examples]:
    """Return conversations of whose tokens `share` are of `written`, the others of `given`, the first of them.

    A question that the teacher answered is not learnt with the given answer, too.
    """
    if share == 1:
        return list(written)
    answered, left = _questions(written), _tokens(written) * (1 - share) / share
    kept: list[Examples] = []
    for one in given:
        if left <= 0:
            break
        if not _questions([one]) & answered:
            kept.append(one)
            left -= _tokens([one])
    return [*kept, *written]


def _questions(conversations: Iterable[Examples]) -> set[tuple[int, ...]]:
    """The tokens before the first that is learnt, of every example."""
    return {tuple(example.tokens[: _first(example)]) for one in conversations for example in one}


def _first(example: Example) -> int:
    return next(place for place, label in enumerate(example.labels) if label != IGNORED)


def _tokens(conversations: Iterable[Examples]) -> int:
    return sum(len(example.tokens) for one in conversations for example in one)
