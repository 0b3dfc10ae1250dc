"""Texts to tokens, on all cores, as they come: never more than a few million characters in memory.

Most words of a text were in it before. Each is encoded once, with the white space before it, and looked up afterwards:
that is faster than the tokenizer on the whole text, and gives the same tokens.
"""

import re
import sys
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, filterfalse
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_PART = 2**18  # characters of a text that are encoded at once: it takes some hundred times as many bytes
_BATCH = 2**20  # characters of all texts that are encoded together
_AHEAD = 2  # batches whose new words are being encoded, on all cores, while words of others are looked up
_REMEMBERED = 2**25  # characters of words, each counted as 100 more; then all are forgotten: some 100 MB
# Where a text may be cut so that no pre-tokenizer joins what lies on both sides: before all white space that follows
# another character, or, because some take line ends to the sign before them, only if it begins with a space. How white
# space is divided depends on all of it, so it stays whole, and with what follows. Both run in linear time: white space
# and all else have no character in common.
_CUTS = (re.compile(r"\s*\S+|\s+\Z"), re.compile(r"\s*\S+(?:[^\S ]\s*\S+)*(?:\s+\Z)?|\s+"))
_PROBE = (
    "  Naïve  café.\n\n    def f(x):\n\treturn 1.\t\t# 中文。 第二 😀 don't I'LL ﬁ\r\n \n  end \n ",
    "x ​ y\xa0 z 　w ΑΣ Σ 12 345,678.9 <|endoftext|> <s> </s> e\u0301 \u0301 한국어 नमस्ते  ",
)


class TextPart(NamedTuple):
    """A text, or a part of a long one."""

    text: str
    first: bool
    last: bool


class TokenBatch(NamedTuple):
    """Documents as tokens, end to end."""

    tokens: np.ndarray
    """uint32, all documents end to end, each with its first token before it and a separator after it."""
    lengths: np.ndarray
    """int64, tokens of each, those before and after it included. A part of a very long document counts as one."""
    documents: int
    """How many begin here."""
    bytes: int
    """Length of the texts in UTF-8."""
    words: int
    """Runs of characters without white space."""


def backend_of(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Copy the part of a tokenizer that encodes, without truncation and padding.

    A special token that is spelt out in a text, as in an article about chat templates, is encoded as the characters
    that it consists of: only we may end a document.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


class WordBatch(NamedTuple):
    """Texts, cut into words."""

    texts: list[list[str]]
    new: list[str]
    """Those of them that were not known before."""
    known: dict[str, bytes | None]
    """The tokens of every word, 4 bytes each; None until `learn` is through."""

    def tokens(self) -> Iterator[bytes]:
        """Yield the tokens of each text, 4 bytes each."""
        return (b"".join(map(self.known.__getitem__, words)) for words in self.texts)  # type: ignore[arg-type]


class Encoder:
    """Encodes texts, and remembers the tokens of words. One should serve all texts."""

    def __init__(self, backend: "Tokenizer"):
        self._backend = backend
        self._cut = next((cut for cut in _CUTS if _may_cut(backend, cut)), None)
        self._known: dict[str, bytes | None] = {}
        self._remembered = 0

    def split(self, texts: Sequence[str]) -> WordBatch:
        """Cut `texts` into words, and say which are to be learnt before their tokens can be looked up."""
        if self._remembered > _REMEMBERED:
            self._known, self._remembered = {}, 0  # another, for words that are being learnt need the old one
        words = [_words(text, self._cut) for text in texts]
        new = list(set(filterfalse(self._known.__contains__, chain.from_iterable(words))))
        self._known.update(dict.fromkeys(new))
        self._remembered += sum(map(len, new)) + 100 * len(new)
        return WordBatch(words, new, self._known)

    def learn(self, words: WordBatch) -> None:
        """Encode the new words; meant for another thread, because the tokenizer leaves Python to others meanwhile."""
        # It computes no offsets. Of all ways from its lists to bytes an array is the fastest.
        encodings = self._backend.encode_batch_fast(words.new, add_special_tokens=False)
        tokens = (array("I", one.ids).tobytes() for one in encodings)
        words.known.update(zip(words.new, tokens, strict=True))


def encode(
    encoder: Encoder, texts: Iterable[str], separator: int | None, start: int | None = None
) -> Iterator[TokenBatch]:
    """Yield the tokens of `texts`, in their order, in batches. Without a `separator`, only those of the texts.

    `start` stands before each text, by default the separator. A text of more than 262,144 characters is encoded in parts, and may differ in a token or two where they meet.
    """
    ends = _bytes_of(separator if start is None else start), _bytes_of(separator)
    waiting: deque[tuple[list[TextPart], WordBatch, Future[None]]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for batch in _batches(texts):
            words = encoder.split([part.text for part in batch])
            waiting.append((batch, words, thread.submit(encoder.learn, words)))
            if len(waiting) > _AHEAD:
                yield _collect(*waiting.popleft(), *ends)
        while waiting:
            yield _collect(*waiting.popleft(), *ends)


def split_long_texts(texts: Iterable[str]) -> Iterator[TextPart]:
    """Yield each text in parts of at most 262,144 characters, cut before white space where there is any."""
    for text in texts:
        begin = 0
        while len(text) - begin > _PART:
            end = max(text.rfind(" ", begin + 1, begin + _PART), text.rfind("\n", begin + 1, begin + _PART))
            end = end if end > 0 else begin + _PART
            yield TextPart(text[begin:end], begin == 0, False)
            begin = end
        yield TextPart(text[begin:], begin == 0, True)


def _batches(texts: Iterable[str]) -> Iterator[list[TextPart]]:
    batch: list[TextPart] = []
    size = 0
    for part in split_long_texts(texts):
        batch.append(part)
        size += len(part.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _words(text: str, cut: re.Pattern[str] | None) -> list[str]:
    """The whole text if it holds what some tokenizers take for a space."""
    return [text] if cut is None or "▁" in text else cut.findall(text)


def _may_cut(backend: "Tokenizer", cut: re.Pattern[str]) -> bool:
    """Whether the tokens of words are those of the whole text. Tried on text that every Python carries."""
    if backend.pre_tokenizer is None:
        return False
    from pydoc_data.topics import topics

    texts = [*_PROBE, *(topics[name] for name in sorted(topics)[::16])]
    words = [_words(text, cut) for text in texts]
    whole = backend.encode_batch_fast(texts, add_special_tokens=False)
    pieces = iter(backend.encode_batch_fast(list(chain.from_iterable(words)), add_special_tokens=False))
    return all(
        one.ids == [token for _ in each for token in next(pieces).ids]
        for one, each in zip(whole, words, strict=True)
    )


def _collect(
    batch: list[TextPart], words: WordBatch, learnt: Future[None], start: bytes, end: bytes
) -> TokenBatch:
    learnt.result()
    documents = [
        (start if part.first else b"") + tokens + (end if part.last else b"")
        for part, tokens in zip(batch, words.tokens(), strict=True)
    ]
    return TokenBatch(
        np.frombuffer(b"".join(documents), np.uint32),
        np.array([len(tokens) // 4 for tokens in documents], np.int64),
        sum(part.first for part in batch),
        *_size("\n".join(part.text for part in batch), len(batch)),
    )


def _bytes_of(token: int | None) -> bytes:
    return b"" if token is None else token.to_bytes(4, sys.byteorder)


def _size(text: str, parts: int) -> tuple[int, int]:
    """Bytes, without the characters that join `parts` parts, and words of `text`."""
    data = np.frombuffer(text.encode(), np.uint8)
    white = data <= ord(" ")
    words = np.count_nonzero(white[:-1] & ~white[1:]) + (not white[0] if len(white) else 0)
    return len(data) - (parts - 1), int(words)
