"""How well a model predicts held-out answers, as bits per byte of what the assistant says in conversations.

The model reads each conversation through its own chat template, as a server would show it. What the assistant says, and
that it ends there, is what it is charged for; the bytes are those of the words, which are the same for every template and
tokenizer.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary
from leanpipe.core.store import digest_json
from leanpipe.evaluation.perplexity import (
    Score,
    bits_per_byte,
    bits_per_byte_error,
    check_finite,
    target_nats,
    windows,
)
from leanpipe.training.finetune.instructions import Conversation, read_instructions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.engines.gguf_logits import GgufLogits
    from leanpipe.training.finetune.chat import Example

_SAID = ("content", "reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True)
class HeldOutAnswers:
    """A conversation of which the assistant's part is scored."""

    id: str
    conversation: Conversation

    @property
    def bytes(self) -> int:
        """Bytes of UTF-8 that the assistant says or thinks."""
        turns = (one for one in self.conversation.messages if one["role"] == "assistant")
        return sum(len(str(turn.get(name) or "").encode()) for turn in turns for name in _SAID)


def held_out_answers(instructions: Path, most: int) -> list[HeldOutAnswers]:
    """Read at most so many of the conversations in a file or a folder: the same ones whatever their order.

    Raises UserError if there are fewer than two: one alone says nothing about how certain its figure is.
    """
    by_id = {_id(one): one for one in read_instructions(instructions).conversations}
    answers = [HeldOutAnswers(id, by_id[id]) for id in sorted(by_id)]
    answers = [one for one in answers if one.bytes][:most]
    if len(answers) < 2:
        raise UserError(
            f"{instructions} holds {len(answers)} conversations to score answers of: at least 2 are needed; hold out more "
            "(finetune.validation_share), or set evaluate.conversations to 0"
        )
    return answers


def answers_digest(answers: Sequence[HeldOutAnswers], context: int, stride: int) -> str:
    """Name the conversations and the windows they are scored in: only figures with the same digest compare."""
    return digest_json([[one.id for one in answers], context, stride])


def can_converse(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the model has a chat template, and a tokenizer that says where in a text its tokens lie."""
    return bool(tokenizer.chat_template) and tokenizer.is_fast


def score_answers(
    model: "PreTrainedModel | GgufLogits",
    tokenizer: "PreTrainedTokenizerBase",
    answers: Sequence[HeldOutAnswers],
    context: int,
    stride: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Score]:
    """One score per conversation, by its id; those that the model's chat template refuses have none.

    Raises UserError if the model predicts anything that is not finite.
    """
    from leanpipe.training.finetune.chat import encode_all

    scores: dict[str, Score] = {}
    for number, one in enumerate(answers, 1):
        encoded = encode_all([one.conversation], tokenizer, _WHOLE)
        for examples in encoded.conversations:
            nats = sum(_nats(model, example, context, stride) for example in examples)
            check_finite(model, nats, f"conversation {number} of {len(answers)}")
            scores[one.id] = Score(nats, sum(example.learned for example in examples), one.bytes)
        progress(number, len(answers))
    return scores


def answer_quality(answers: Mapping[str, Score]) -> Summary:
    """The figures of quality of all answers together; none if there are too few."""
    scores = list(answers.values())
    if len(scores) < 2:
        return {}
    return {
        "answer_bits_per_byte": bits_per_byte(scores),
        "answer_bits_per_byte_error": bits_per_byte_error(scores),
        "answers_scored": len(scores),
    }


_WHOLE = 10**9
"""Tokens of a conversation: no answer is cut, for every model must be charged for the same words."""


def _nats(model: "PreTrainedModel | GgufLogits", example: "Example", context: int, stride: int) -> float:
    return sum(target_nats(model, *window) for window in _answer_windows(example, context, stride))


def _answer_windows(example: "Example", context: int, stride: int) -> Iterator[tuple[list[int], list[int]]]:
    """The windows of a conversation in which the assistant says something, their targets from there on."""
    from leanpipe.training.losses.chunked_loss import IGNORED

    first, *rest = example.tokens
    labels = iter(example.labels[1:])
    for inputs, targets in windows(rest, first, context, stride):
        marked = [next(labels) for _ in targets]
        begins = next((place for place, label in enumerate(marked) if label != IGNORED), None)
        if begins is not None:
            yield inputs, marked[begins:]


def _id(conversation: Conversation) -> str:
    content = json.dumps([conversation.messages, conversation.tools], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]
