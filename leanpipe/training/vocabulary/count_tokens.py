"""How often a model's texts use each token of its vocabulary."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.corpus.decontam.evaluation_sets import read_evaluation_set
from leanpipe.models.load import load_tokenizer
from leanpipe.tokens.encode import Encoder, backend_of, encode
from leanpipe.tokens.training_text import TrainingTextSample
from leanpipe.training.finetune.instructions import Message, read_instructions

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


log = logging.getLogger(__name__)


def count_tokens(tokenizer: "PreTrainedTokenizerBase", size: int, texts: Iterable[str]) -> "np.ndarray":
    """How often each of the `size` tokens comes up in `texts`, (V,), int64."""
    import numpy as np

    counts_V: np.ndarray = np.zeros(size, np.int64)
    for batch in encode(Encoder(backend_of(tokenizer)), texts, None):
        counts_V += np.bincount(batch.tokens, minlength=size)
    return counts_V


def texts_to_serve(
    documents: Path, limit: int, instructions: Path | None, evaluation_sets: Sequence[Path]
) -> Iterator[str]:
    """Yield what a model will read and write: training text (about `limit` bytes of it), instructions, evaluation sets."""
    yield from TrainingTextSample(documents, limit)
    if instructions:
        for conversation in read_instructions(instructions).conversations:
            yield from (text for message in conversation.messages for text in _texts(message))
    for path in evaluation_sets:
        yield from (text for _, text in read_evaluation_set(path))


def spelt_out(folder: Path) -> str:
    """What a chat template writes between the turns, with all else in it: the template itself."""
    template = load_tokenizer(folder).chat_template or ""
    return template if isinstance(template, str) else "\n".join(template.values())


def spelt_turns(folder: Path) -> list[str]:
    """What a chat template makes of conversations that say nothing: the names of who speaks, with what stands around them.

    A template of one that cannot begin or end so refuses it, which leaves that one out.
    """
    tokenizer, found = load_tokenizer(folder), []
    for roles in _TURNS if tokenizer.chat_template else ():
        turns = [{"role": role, "content": ""} for role in roles]
        try:
            found.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # noqa: BLE001
            log.debug("the chat template of %s refuses turns of %s: %s", folder, roles, error)
    return [one for one in found if isinstance(one, str)]


# Who calls tools has instructions that do, which are counted.
_TURNS = (
    ("user",),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
)


def _texts(message: Message) -> Iterator[str]:
    """The words of a message, and of what its template may put around them."""
    for value in message.values():
        if isinstance(value, str):
            yield value
        elif value:
            yield str(value)
