"""Texts to tokens, on all cores, as they come: never more than a few million characters in memory."""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_PART = 2**18  # characters of a text that are encoded at once: it takes some hundred times as many bytes
_BATCH = 2**20  # characters of all texts that are encoded together
_THREADS = 2  # while one batch is encoded on all cores, the tokens of another are collected


class Part(NamedTuple):
    """A text, or a part of a long one."""

    text: str
    first: bool
    last: bool


class Batch(NamedTuple):
    """Documents as tokens."""

    tokens: np.ndarray
    """uint32, all documents end to end, each with a separator before and after it."""
    lengths: np.ndarray
    """int64, tokens of each, separators included. A part of a very long document counts as one."""
    documents: int
    """How many begin here."""
    bytes: int
    """Length of the texts in UTF-8."""
    words: int
    """Runs of characters without white space."""


def backend_of(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """A copy of what encodes, without truncation and padding.

    A special token that is spelt out in a text, as in an article about chat templates, is encoded as the characters
    that it consists of: only we may end a document.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def encode(backend: "Tokenizer", texts: Iterable[str], separator: int | None) -> Iterator[Batch]:
    """The tokens of `texts`, in their order, in batches. Without a `separator`, only those of the texts.

    A text of more than 262,144 characters is encoded in parts, and may differ in a token or two where they meet.
    """
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(_THREADS) as threads:
        for batch in _batches(texts):
            waiting.append(threads.submit(_encode, backend, batch, separator))
            if len(waiting) > _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def parts(texts: Iterable[str]) -> Iterator[Part]:
    """Each text in parts of at most 262,144 characters, cut before white space where there is any."""
    for text in texts:
        begin = 0
        while len(text) - begin > _PART:
            end = max(text.rfind(" ", begin + 1, begin + _PART), text.rfind("\n", begin + 1, begin + _PART))
            end = end if end > 0 else begin + _PART
            yield Part(text[begin:end], begin == 0, False)
            begin = end
        yield Part(text[begin:], begin == 0, True)


def _batches(texts: Iterable[str]) -> Iterator[list[Part]]:
    batch: list[Part] = []
    size = 0
    for part in parts(texts):
        batch.append(part)
        size += len(part.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(backend: "Tokenizer", batch: list[Part], separator: int | None) -> Batch:
    # It computes no offsets and lets other threads run. Of all ways from its lists to numpy an array is the fastest.
    encodings = backend.encode_batch_fast([part.text for part in batch], add_special_tokens=False)
    ends = [] if separator is None else [separator]
    tokens, lengths = array("I"), []
    for part, encoding in zip(batch, encodings, strict=True):
        before = len(tokens)
        tokens.extend(ends if part.first else ())
        tokens.fromlist(encoding.ids)
        tokens.extend(ends if part.last else ())
        lengths.append(len(tokens) - before)
    return Batch(
        np.frombuffer(tokens, np.uint32),
        np.array(lengths, np.int64),
        sum(part.first for part in batch),
        *_size("\n".join(part.text for part in batch), len(batch)),
    )


def _size(text: str, parts: int) -> tuple[int, int]:
    """Bytes, without the characters that join `parts` parts, and words of `text`."""
    data = np.frombuffer(text.encode(), np.uint8)
    white = data <= ord(" ")
    words = np.count_nonzero(white[:-1] & ~white[1:]) + (not white[0] if len(white) else 0)
    return len(data) - (parts - 1), int(words)
