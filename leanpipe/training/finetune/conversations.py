"""Which conversations are learnt, and which are held out to measure on."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from leanpipe.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from leanpipe.training.finetune.chat import Encoded, Example
    from leanpipe.training.finetune.finetune import FinetuneConfig
    from leanpipe.training.finetune.hold_out import HoldOutConfig
    from leanpipe.training.finetune.instructions import Conversation, Instructions

_T = TypeVar("_T")


@dataclass(frozen=True)
class Examples:
    """Conversations as tokens, and what became of those that are not among them."""

    train: "list[Example]"
    validation: "list[Example]"
    conversations: int
    skipped: int
    cut: int
    shapes: str
    reasons: str
    """Why conversations were left out."""


class ConversationSplit(NamedTuple):
    """Conversations that are learnt, and others that are held out to measure on."""

    train: "list[Conversation]"
    held_out: "list[Conversation]"


def split_conversations(
    config: "FinetuneConfig | HoldOutConfig", path: Path, tokenizer: "PreTrainedTokenizerBase"
) -> ConversationSplit:
    """Say which of the conversations `finetune` learns from, and which it holds out. Raises UserError if there are too few."""
    encoded, _ = _encoded(config, path, tokenizer)
    kept, held_out = _shuffled(config, encoded.kept)
    return ConversationSplit(kept[held_out:], kept[:held_out])


def _encoded(
    config: "FinetuneConfig | HoldOutConfig", path: Path, tokenizer: "PreTrainedTokenizerBase"
) -> "tuple[Encoded, Instructions]":
    from leanpipe.training.finetune.chat import encode_all
    from leanpipe.training.finetune.instructions import read_instructions

    read = read_instructions(path)
    encoded = encode_all(read.conversations, tokenizer, config.max_length, config.thoughts)
    usable = len(encoded.conversations)
    if usable < 2:
        left_out = f"; left out were {encoded.describe()}" if encoded.refused else ""
        raise UserError(
            f"{path} has {usable} usable instructions: at least 2 are needed, one to learn, one to check{left_out}"
        )
    return encoded, read


def _shuffled(config: "FinetuneConfig | HoldOutConfig", conversations: list[_T]) -> tuple[list[_T], int]:
    """In the order of the seed, with how many of the first are held out. It depends on nothing but how many there are."""
    shuffled = [*conversations]
    random.Random(config.seed).shuffle(shuffled)
    share = round(config.validation_share * len(shuffled))
    return shuffled, min(len(shuffled) - 1, max(1, share))


def split_examples(
    config: "FinetuneConfig", path: Path, tokenizer: "PreTrainedTokenizerBase", written: Path | None = None
) -> Examples:
    """Read conversations as tokens, and hold some of them out. Those of which nothing would be learnt are skipped.

    What is held out has the given answers, whoever `written` others.
    """
    from leanpipe.training.finetune.instruction_files import ANSWERS
    from leanpipe.training.finetune.teacher_answers import mix_answers, read_answers

    encoded, read = _encoded(config, path, tokenizer)
    usable, held_out = _shuffled(config, encoded.conversations)
    apart, learned = usable[:held_out], usable[held_out:]
    if written and config.written_share:
        answers = read_answers(written / ANSWERS, tokenizer, config.max_length, apart)
        learned = mix_answers(learned, answers, config.written_share)
    validation, train = ([one for some in part for one in some] for part in (apart, learned))
    unread = f"{read.skipped:,} (no conversation that could be learnt)" if read.skipped else ""
    reasons = ", ".join(filter(None, (unread, encoded.describe()))) or "none"
    skipped = read.skipped + encoded.skipped
    return Examples(train, validation, len(usable), skipped, encoded.cut, read.describe(), reasons)
