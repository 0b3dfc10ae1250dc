"""Texts to tokens, on all cores."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 256  # texts encoded at once


@dataclass(frozen=True)
class Encoded:
    """Documents as tokens, without separators."""

    documents: list[np.ndarray]
    """Tokens of each document, uint32."""
    bytes: int
    """Length of the texts in UTF-8."""

    @property
    def bytes_per_token(self) -> float:
        """How much text a token stands for; 0 without any."""
        return round(self.bytes / max(1, sum(map(len, self.documents))), 4)


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Iterable[str],
    progress: Callable[[int], None] = lambda done: None,
) -> Encoded:
    """Each of `texts` as tokens. `progress` is told how many are done.

    A special token that is spelt out in a text, as in an article about chat templates, is encoded as the characters
    that it consists of: only we may end a document.
    """
    documents: list[np.ndarray] = []
    size = 0
    for batch, tokens in _encode_batches(tokenizer, iter(texts)):
        documents += tokens
        size += sum(len(text.encode()) for text in batch)
        progress(len(documents))
    return Encoded(documents, size)


def _encode_batches(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterator[str]
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    from tokenizers import Tokenizer

    # A copy, for what is set here must not stay set. `encode_batch_fast` computes no offsets.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    while batch := list(islice(texts, _BATCH)):
        encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
        yield batch, [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
