"""Render conversations through a model's chat template, and find the assistant's words in what came out.

Templates say nothing about where a message's words lie in the text, and many change them: they trim them, drop earlier
thoughts, put empty ones before an answer, or end the last turn otherwise than the others. So each answer is looked up by
rendering it twice, the second time with a marker in its place: what stands before and after the marker is the template's.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError
from leanpipe.training.finetune.instructions import Conversation, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKER = "Zxqv7Kw"
"""Stands for an answer: one word that no template takes for anything else."""
_END_OF_THOUGHTS = re.compile(r"(?s)^.*(?:</[\w:]*think[\w:]*>|\[/THINK\])\s*")
_TAG_OF_THOUGHTS = re.compile(r"</?[\w:]*think[\w:]*>|\[/?THINK\]")
_BEGINNING_OF_THOUGHTS = re.compile(r"(?:<[\w:]*think[\w:]*>|\[THINK\])\s*$")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Names of the field that holds what the assistant thought, by the makers of templates."""
_TAG = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|[^<\[]+|.")
_OPENS_A_TURN = re.compile(r"(?i)start|begin|bos|user|bot|system")
_ENDS_A_TURN = re.compile(r"(?i)end|eos|eot|/|stop|close")


class TemplateRefusal(Exception):
    """The chat template cannot render a conversation, or not in a way that shows what the assistant said."""


@dataclass(frozen=True)
class Rendering:
    """A conversation as text; `spans` are its characters that are learnt, from the first to behind the last."""

    text: str
    spans: list[tuple[int, int]]
    complete: bool = True
    """Whether the template ends the last turn; if not, the model's end of text comes after it."""


def check_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError if the tokenizer cannot render a conversation or say where in the text its tokens lie."""
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has no chat template: put a chat_template.jinja into its folder"
        )
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no tokenizer.json, which finetune needs")


def render(
    conversation: Conversation, tokenizer: "PreTrainedTokenizerBase", thoughts: bool = True
) -> list[Rendering]:
    """Render a conversation so that each turn of the assistant is in the spans of exactly one rendering.

    One is enough where the template only appends. Where it changes earlier turns when later ones come, or does not end
    them, each such turn comes in a rendering that ends with it, as the model meets it when it answers.
    A span begins with the assistant's words (with its `thoughts`, if those are wanted) and ends with its end-of-turn.
    Raises TemplateRefusal.
    """
    turns = [index for index, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    alone = {index: _answer(conversation.upto(index), tokenizer, thoughts) for index in turns}
    renderings = []
    while turns:
        last = alone[turns.pop()]
        spans = [*last.spans]
        for index in reversed(turns):
            earlier = alone[index]
            if earlier.complete and last.text.startswith(earlier.text[: earlier.spans[0][1]]):
                spans.append(earlier.spans[0])
                turns.remove(index)
        renderings.append(Rendering(last.text, sorted(spans), last.complete))
    return renderings[::-1]


def last_turn(
    conversation: Conversation, tokenizer: "PreTrainedTokenizerBase", thoughts: bool = True
) -> Rendering:
    """Render a conversation up to the assistant's last turn, with that turn's span alone. Raises TemplateRefusal."""
    last = max(index for index, message in enumerate(conversation.messages) if message["role"] == "assistant")
    return _answer(conversation.upto(last), tokenizer, thoughts)


def _answer(conversation: Conversation, tokenizer: "PreTrainedTokenizerBase", thoughts: bool) -> Rendering:
    """Render a conversation that ends with an answer, and find that answer."""
    text, message = _render(conversation, tokenizer), conversation.messages[-1]
    said = message.get("content") or ""
    thought = _END_OF_THOUGHTS.match(said)
    before, after = _around_marker(conversation, tokenizer, thought.group() if thought else "")
    first = _common_beginning(text, before)
    last = len(text) - _common_end(text[first:], after)
    _check_said(message, said[thought.end() :] if thought else said, text[first:])
    prompt = _render(Conversation(conversation.messages[:-1], conversation.tools), tokenizer, answer=True)
    begun = text[:first].startswith(prompt)
    if thoughts and (thought or any(message.get(name) for name in _THOUGHTS)):
        first = _first_thought(conversation, tokenizer, text[:first])
    elif begun and not text[len(prompt) : first].strip(" "):
        first = len(prompt)  # the blank between "assistant:" and the answer is for the model to write
    if begun:
        first = max(
            first, len(prompt)
        )  # a tag that the template gives the model to begin with is not the model's
    end = _end_of_turn(text[last:], tokenizer)
    return Rendering(text if end else text[:last], [(first, last + end)], complete=end > 0)


def _check_said(message: Message, words: str, answer: str) -> None:
    """Raise TemplateRefusal unless all words and calls of a message are in the answer as it was rendered."""
    calls = [call["function"]["name"] for call in message.get("tool_calls") or ()]
    if words.strip() not in answer or not all(name in answer for name in calls):
        raise TemplateRefusal("it leaves out or changes what the assistant says")


def _around_marker(
    conversation: Conversation, tokenizer: "PreTrainedTokenizerBase", thought: str, forget: bool = False
) -> tuple[str, str]:
    """Return what the template puts before and after the words of the last answer; `forget` leaves out its thoughts."""
    left_out = {"tool_calls", *(_THOUGHTS if forget else ())}
    message = {name: value for name, value in conversation.messages[-1].items() if name not in left_out}
    marked = [*conversation.messages[:-1], message | {"content": thought + _MARKER}]
    before, found, after = _render(Conversation(marked, conversation.tools), tokenizer).rpartition(_MARKER)
    if not found:
        raise TemplateRefusal("it leaves out what the assistant says")
    return before, after


def _first_thought(conversation: Conversation, tokenizer: "PreTrainedTokenizerBase", before: str) -> int:
    """Where the thoughts of the last answer begin in what stands `before` its words, the tag that opens them included."""
    without, _ = _around_marker(conversation, tokenizer, "", forget=True)
    first = _common_beginning(before, without)
    tag = _BEGINNING_OF_THOUGHTS.search(before[:first])
    return tag.start() if tag else first


def _end_of_turn(after: str, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Count the characters up to the end of what ends the turn; 0 if the template puts nothing there that would.

    That is what follows the words without a break, up to where another turn is opened; line breaks before it are a part.
    """
    stripped = after.lstrip()
    if not stripped.startswith(("<", "[", *control_tokens(tokenizer))):
        return 0
    tags = _TAG.findall(stripped.split(maxsplit=1)[0])
    opening = (number for number, tag in enumerate(tags[1:], 1) if _opens(tag))
    return len(after) - len(stripped) + sum(map(len, tags[: next(opening, len(tags))]))


def _opens(tag: str) -> bool:
    return bool(_OPENS_A_TURN.search(tag)) and not _ENDS_A_TURN.search(tag)


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Return the texts that are never words: end-of-turn and the like."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(added.union(tokenizer.all_special_tokens) - {""}))


def _render(conversation: Conversation, tokenizer: "PreTrainedTokenizerBase", answer: bool = False) -> str:
    """Render as text. Templates that take tools, documents or a date for given get none of them."""
    from jinja2 import TemplateError, UndefinedError

    given: dict[str, Any] = {"tools": conversation.tools} if conversation.tools else {}
    for _ in range(_MISSING):
        try:
            return tokenizer.apply_chat_template(
                list(conversation.messages), tokenize=False, add_generation_prompt=answer, **given
            )
        except UndefinedError as error:
            name = re.fullmatch(r"'(\w+)' is undefined", str(error))
            if not name or name[1] in given:
                raise TemplateRefusal(_one_line(error)) from error
            given[name[1]] = ""
        except TypeError as error:
            if "documents" in given:
                raise TemplateRefusal(_one_line(error)) from error
            given = {"tools": [], "documents": []} | given
        except (TemplateError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise TemplateRefusal(_one_line(error)) from error
    raise TemplateRefusal("it asks for more than a conversation")


_MISSING = 8
"""How many things a template may ask for in vain."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _common_beginning(one: str, other: str) -> int:
    """Count the characters that both begin with."""
    if one.startswith(other):
        return len(other)
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def _common_end(one: str, other: str) -> int:
    """Count the characters that both end with."""
    return _common_beginning(one[::-1], other[::-1])


def holds_control_tokens(conversation: Conversation, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether somebody's words spell a token such as the end-of-turn, which the model would take for one.

    The tags around thoughts may be such tokens, and are what they seem.
    """
    never = [token for token in control_tokens(tokenizer) if not _TAG_OF_THOUGHTS.fullmatch(token)]
    pattern = re.compile("|".join(map(re.escape, never)) or r"(?!)")
    fields = ("content", *_THOUGHTS)
    words = (message.get(name) for message in conversation.messages for name in fields)
    return any(pattern.search(text) for text in words if isinstance(text, str))
