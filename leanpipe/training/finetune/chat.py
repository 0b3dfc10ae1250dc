"""Conversations as tokens, and which of those the model learns: what the assistant says and its end-of-turn, no more."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leanpipe.core import markdown
from leanpipe.core.errors import UserError
from leanpipe.training.finetune.instructions import Message
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


def check_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError if the tokenizer cannot render a conversation or say where in the text its tokens lie."""
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has no chat template: put a chat_template.jinja into its folder"
        )
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no tokenizer.json, which finetune needs")


def encode(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Example:
    """Turn a conversation into tokens through the chat template, cut after `max_length` of them."""
    text, spans = render(messages, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens, labels = encoded["input_ids"][:max_length], []
    for token, (start, end) in zip(tokens, encoded["offset_mapping"], strict=False):
        inside = any(first <= start and end <= last for first, last in spans)
        labels.append(token if inside and end > start else IGNORED)
    return Example(tokens, labels)


def last_answer(
    messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[int]]:
    """Return the tokens before the assistant's last turn, and those of that turn, its end-of-turn included."""
    text, spans = render(messages, tokenizer)
    first, last = spans[-1]
    encoded = tokenizer(text[:last], add_special_tokens=False, return_offsets_mapping=True)
    begin = sum(start < first for start, _ in encoded["offset_mapping"])
    return encoded["input_ids"][:begin], encoded["input_ids"][begin:]


def render(
    messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[str, list[tuple[int, int]]]:
    """Render the conversation as text, and say from which to which character each turn of the assistant goes.

    A turn ends with its end-of-turn token; the line break that templates put after it is the template's, not the
    assistant's. Raises UserError for a template that renders a beginning otherwise than the whole.
    """
    text = _render(messages, tokenizer)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            before = _render(messages[:index], tokenizer, answer=True)
            turn = _render(messages[: index + 1], tokenizer)
            if not text.startswith(turn) or not turn.startswith(before):
                raise UserError(
                    f"the chat template of {tokenizer.name_or_path} changes earlier turns when later ones come, so what "
                    "the assistant said cannot be told from the rest: use a template that only appends"
                )
            spans.append((len(before), _end(turn, message["content"], tokenizer)))
    return text, spans


def holds_control_tokens(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether somebody's words spell a token such as the end-of-turn, which the model would take for one."""
    pattern = re.compile("|".join(map(re.escape, _control_tokens(tokenizer))) or r"(?!)")
    return any(pattern.search(message["content"]) for message in messages)


def _end(turn: str, content: str, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Where the turn's end-of-turn token ends; where its content ends if the template has no such token."""
    stripped = turn.rstrip()
    if stripped.endswith(_control_tokens(tokenizer)):
        return len(stripped)
    return turn.rindex(content.strip()) + len(content.strip())


def _control_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Texts that are never words: end-of-turn and the like."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(added.union(tokenizer.all_special_tokens) - {""}))


def _render(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase", answer: bool = False) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer)


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
