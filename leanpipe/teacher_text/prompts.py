"""What a teacher is given to go on from: openings of the corpus's documents, or instructions up to an answer."""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from leanpipe.training.finetune.instructions import Conversation


@dataclass(frozen=True)
class Prompt:
    """Tokens to go on from, and what they are the beginning of."""

    id: str
    """A digest of the tokens: what is sampled after them depends on it, and on nothing else that comes before or after."""
    tokens: tuple[int, ...]
    text: str = ""
    """The opening of a document, as text."""
    conversation: "Conversation | None" = None
    """A conversation up to the answer that is asked for, without it."""

    def seed(self, seed: int) -> int:
        """Return the seed of what is sampled after this prompt, for a training of seed `seed`; 31 bits."""
        return int(hashlib.sha256(f"{seed} {self.id}".encode()).hexdigest()[:8], 16) >> 1


def openings(documents: Path, tokenizer: "PreTrainedTokenizerBase", length: int) -> list[Prompt]:
    """Return the first `length` tokens of every training document that has more than that, in the order of their digests.

    They end between two words where there are spaces: given half of a word, a teacher goes on with one that nobody would write.
    """
    from leanpipe.corpus.tables import read_texts
    from leanpipe.models.load import document_start
    from leanpipe.tokens.text_tokens import encode_text

    found = {}
    for text in read_texts(documents, "train"):
        # A token is never shorter than a byte, so that is enough of a long document.
        tokens = encode_text(tokenizer, text[: 32 * length])
        if len(tokens) <= length:
            continue
        whole = tokenizer.decode(tokens[:length])
        opening = whole.rpartition(" ")[0] or whole
        cut = encode_text(tokenizer, opening)
        if cut:
            prompt = _prompt([document_start(tokenizer), *cut], text=opening)
            found[prompt.id] = prompt
    return sorted(found.values(), key=lambda prompt: prompt.id)


def questions(instructions: Path, tokenizer: "PreTrainedTokenizerBase", longest: int) -> list[Prompt]:
    """Return every conversation up to its last answer, as the chat template asks for that, in the order of their digests.

    Those of more than `longest` tokens and those that the template refuses are left out.
    """
    from leanpipe.training.finetune.chat import last_answer
    from leanpipe.training.finetune.instructions import Conversation, read_instructions
    from leanpipe.training.finetune.template import TemplateRefusal, holds_control_tokens

    found = {}
    for conversation in read_instructions(instructions).conversations:
        if holds_control_tokens(conversation, tokenizer):
            continue
        with contextlib.suppress(TemplateRefusal):
            tokens, answer = last_answer(conversation, tokenizer)
            last = max(n for n, message in enumerate(conversation.messages) if message["role"] == "assistant")
            if answer and len(tokens) <= longest:
                asked = Conversation(conversation.messages[:last], conversation.tools)
                prompt = _prompt(tokens, conversation=asked)
                found[prompt.id] = prompt
    return sorted(found.values(), key=lambda prompt: prompt.id)


def _prompt(tokens: list[int], text: str = "", conversation: "Conversation | None" = None) -> Prompt:
    digest = hashlib.sha256(" ".join(map(str, tokens)).encode()).hexdigest()[:24]
    return Prompt(digest, tuple(tokens), text, conversation)
