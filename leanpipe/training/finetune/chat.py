"""Conversations as tokens, and which of those the model learns: what the assistant says and its end-of-turn, no more."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leanpipe.core import markdown
from leanpipe.training.finetune.instructions import Conversation
from leanpipe.training.finetune.template import (
    Rendering,
    TemplateRefusal,
    holds_control_tokens,
    last_turn,
    render,
)
from leanpipe.training.losses.chunked_loss import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    """A conversation; `labels` are its tokens where they are learnt, else -100."""

    tokens: list[int]
    labels: list[int]

    @property
    def learned(self) -> int:
        """How many of the tokens are learnt."""
        return sum(label != IGNORED for label in self.labels)


@dataclass
class Encoded:
    """Conversations as examples, one list for each, and what became of the others."""

    conversations: list[list[Example]] = field(default_factory=list)
    kept: list[Conversation] = field(default_factory=list)
    """The same conversations as they were written."""
    refused: Counter[str] = field(default_factory=Counter)
    """How many conversations were left out for which reason."""
    cut: int = 0
    """How many conversations lost some of the assistant's words to `max_length`."""

    @property
    def skipped(self) -> int:
        """How many conversations were left out."""
        return sum(self.refused.values())

    def describe(self) -> str:
        """Return why conversations were left out, such as "2 (the chat template refuses them: roles must alternate)"."""
        return ", ".join(f"{number:,} ({reason})" for reason, number in self.refused.most_common())


def encode_all(
    conversations: Iterable[Conversation],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    thoughts: bool = True,
) -> Encoded:
    """Turn conversations into examples; those that the template refuses or of which nothing is left are counted."""
    encoded = Encoded()
    for conversation in conversations:
        if holds_control_tokens(conversation, tokenizer):
            encoded.refused["somebody's words spell a control token"] += 1
            continue
        try:
            whole = encode(conversation, tokenizer, thoughts)
        except TemplateRefusal as refusal:
            encoded.refused[f"the chat template refuses them: {refusal}"] += 1
            continue
        shortened = [Example(one.tokens[:max_length], one.labels[:max_length]) for one in whole]
        usable = [example for example in shortened if example.learned]
        lost = sum(one.learned for one in whole) > sum(one.learned for one in usable)
        if usable:
            encoded.conversations.append(usable)
            encoded.kept.append(conversation)
            encoded.cut += lost
        elif lost:
            encoded.refused[f"the assistant answers after more than {max_length} tokens"] += 1
        else:
            encoded.refused["the assistant says nothing"] += 1
    return encoded


def encode(
    conversation: Conversation, tokenizer: "PreTrainedTokenizerBase", thoughts: bool = True
) -> list[Example]:
    """Turn a conversation into tokens through the chat template: one example, or more where it rewrites earlier turns.

    A token of which a part is the assistant's is learnt. Raises TemplateRefusal.
    """
    return [_example(rendering, tokenizer) for rendering in render(conversation, tokenizer, thoughts)]


def last_answers(
    conversations: Iterable[Conversation], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield of each conversation the tokens before the assistant's last turn, and those of that turn with its end.

    Conversations that the template refuses or that spell a control token are left out.
    """
    for conversation in conversations:
        if holds_control_tokens(conversation, tokenizer):
            continue
        with contextlib.suppress(TemplateRefusal):
            yield last_answer(conversation, tokenizer)


def last_answer(
    conversation: Conversation, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[int]]:
    """Return the tokens before the assistant's last turn, and those of that turn with its end. Raises TemplateRefusal."""
    example = _example(last_turn(conversation, tokenizer), tokenizer)
    learned = [place for place, label in enumerate(example.labels) if label != IGNORED]
    if not learned:
        return example.tokens, []
    return example.tokens[: learned[0]], example.tokens[learned[0] : learned[-1] + 1]


def _example(rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> Example:
    encoded = tokenizer(rendering.text, add_special_tokens=False, return_offsets_mapping=True)
    tokens, labels = list(encoded["input_ids"]), []
    for token, (start, end) in zip(tokens, encoded["offset_mapping"], strict=True):
        inside = any(start < last and first < end for first, last in rendering.spans)
        labels.append(token if inside and end > start else IGNORED)
    if not rendering.complete and tokenizer.eos_token_id is not None:
        tokens.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id)
    return Example(tokens, labels)


def describe_mask(example: Example, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a Markdown page that shows each token of the example and whether it is learnt."""
    rows = []
    for place, (token, label) in enumerate(zip(example.tokens, example.labels, strict=True)):
        text, learned = f"`{_visible(tokenizer.decode([token]))}`", label != IGNORED
        rows.append((place, token, f"**{text}**" if learned else text, "learnt" if learned else ""))
    return (
        "# What is learnt\n\nOne conversation as the model reads it. **Bold** tokens are learnt, others are read only.\n\n"
        + markdown.table(("", "token", "text", ""), rows, "rrll")
    )


def learned_runs(example: Example, tokenizer: "PreTrainedTokenizerBase") -> list[tuple[str, bool]]:
    """Split the example's text wherever what is learnt begins or ends, with whether it is learnt."""
    runs: list[tuple[list[int], bool]] = []
    for token, label in zip(example.tokens, example.labels, strict=True):
        learned = label != IGNORED
        if not runs or runs[-1][1] != learned:
            runs.append(([], learned))
        runs[-1][0].append(token)
    return [(tokenizer.decode(tokens), learned) for tokens, learned in runs]


def _visible(text: str) -> str:
    return text.replace("\n", "⏎").replace("|", "¦").replace("`", "ˋ").replace(" ", "·")
