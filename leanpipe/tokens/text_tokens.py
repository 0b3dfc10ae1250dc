"""Tokens of text that is data: one rule for training, evaluation and whatever else reads text.

A special token that is spelt out in a text, as in an article about chat templates, is the characters that it consists of.
Only a template, or we ourselves, may end a turn or a document. `encode` does the same for many texts at once.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a text as training does, without anything before or after it."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def encode_question(tokenizer: "PreTrainedTokenizerBase", question: str) -> list[int]:
    """Encode a user's turn and the beginning of the answer, by the tokenizer's chat template."""
    turns = [{"role": "user", "content": question}]
    return list(
        tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
        )
    )
