"""What both models are given to read: conversations, as a chat server gets them, and plain texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = list[dict[str, str]]

_TEXTS = (
    "The river rises in the hills to the north, passes three small towns, and reaches the sea after ninety miles.",
    "  two spaces, a tab\tand\n\nan empty line; 1,234.5 and def f(x): return x**2",
    "Zürich, 東京, Ελλάδα – “quoted” – 🙂",
)
"""What converted tokenizers get wrong: spaces, numbers, code, letters of two bytes and of more."""
_ANSWER = "leanpipe-parity-answer"


@dataclass(frozen=True)
class Probe:
    """One text or conversation, and the tokens that the trained model reads for it."""

    called: str
    """What it is named in sentences."""
    turns: Turns | None
    text: str
    tokens: list[int]

    @property
    def is_chat(self) -> bool:
        return self.turns is not None


def probes(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str]) -> list[Probe]:
    """Return what both models read, with the tokens of the trained model's `tokenizer`.

    Conversations that its template refuses, such as those with a system's turn, are left out.
    """
    found = [
        Probe(f"text {number}", None, text, encode_text(tokenizer, text))
        for number, text in enumerate((*_TEXTS, *prompts), 1)
    ]
    if tokenizer.chat_template:
        for number, turns in enumerate(_conversations(tokenizer, prompts), 1):
            tokens = encode_turns(tokenizer, turns)
            if tokens is not None:
                found.append(Probe(f"conversation {number}", turns, "", tokens))
    return found


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a text as a completions server does: with the BOS, if the tokenizer puts one."""
    return list(tokenizer(text)["input_ids"])


def encode_turns(tokenizer: "PreTrainedTokenizerBase", turns: Turns) -> list[int] | None:
    """Encode a conversation as a chat server does; None if the template refuses it."""
    from jinja2 import TemplateError

    options: Any = {"add_generation_prompt": True, "return_dict": False, "sanitize_control_tokens": True}
    try:
        return list(tokenizer.apply_chat_template(turns, **options))
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Return the special token with which the template ends an answer; None where it ends it with text, or there is none."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return None
    turns = [_turn("user", "?"), _turn("assistant", _ANSWER)]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None
    rest = text.rpartition(_ANSWER)[2]
    places = {rest.find(token): token for token in special_tokens(tokenizer) if token in rest}
    return special_tokens(tokenizer)[places[min(places)]] if places else None


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Return the ids of the special tokens, by what they are spelt as."""
    added = {str(token): id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return added | {str(token): id_ for token, id_ in named}


def _conversations(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str]) -> Iterable[Turns]:
    first = prompts[0]
    yield from ([_turn("user", prompt)] for prompt in prompts)
    yield [_turn("system", "Answer in one word."), _turn("user", first)]
    yield [_turn("user", first), _turn("assistant", "Yes."), _turn("user", " And why?\n")]
    spelt = "".join(special_tokens(tokenizer))
    yield [_turn("user", f"What does {spelt} mean?")]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
