"""What trained tokenizers have in common: special tokens, and how large a vocabulary the corpus supports."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from leanpipe.core.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.trainers import Trainer

SEPARATOR, TURN_START, TURN_END, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"
SPECIAL_TOKENS = [SEPARATOR, TURN_START, TURN_END]
COVERAGE = 0.9995  # SentencePiece's character_coverage: rarer characters get no token of their own
LEAST = 300  # the smallest vocabulary that may be asked for

TokenizerKind = Literal["bpe", "wordpiece", "unigram"]


def fit_tokenizer(
    tokenizer: "Tokenizer",
    trainer: "Trainer",
    texts: Iterable[str],
    vocabulary: int,
    kind: TokenizerKind,
    min_occurrences: int,
) -> "Tokenizer":
    """Train `tokenizer`, and refuse a result that is not of the size that was asked for."""
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocabulary:
        raise vocabulary_too_large(kind, tokenizer.get_vocab_size(), vocabulary, min_occurrences)
    return tokenizer


def vocabulary_too_large(kind: TokenizerKind, size: int, vocabulary: int, min_occurrences: int) -> UserError:
    """Say that the corpus supports no more than `size` tokens."""
    often = f", if each is to occur {min_occurrences} times" if min_occurrences > 1 else ""
    advice = (
        f"set tokenize.vocabulary to {size} or less, or give more text" if size >= LEAST else "give more text"
    )
    return UserError(
        f"the corpus supports a {kind} vocabulary of {size} tokens{often}, not of {vocabulary}: {advice}"
    )


def check_alphabet(kind: TokenizerKind, least: int, vocabulary: int) -> None:
    """Raise UserError if the characters alone, of which there are `least`, leave no room for anything else."""
    if least > vocabulary:
        raise UserError(
            f"the corpus needs a {kind} vocabulary of more than {least} tokens for its characters alone, "
            f"not {vocabulary}: raise tokenize.vocabulary"
        )


def rare_and_common_characters(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Divide the characters into those so rare that `COVERAGE` is reached without them, and all others, each sorted."""
    counts: np.ndarray = np.zeros(0x110000, np.int64)
    for text in texts:
        codes, found = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_counts=True)
        counts[codes] += found
    used = np.flatnonzero(counts)
    rarest = used[np.argsort(counts[used], kind="stable")]
    spare = np.cumsum(counts[rarest]) <= (1 - COVERAGE) * counts.sum()
    return [chr(code) for code in np.sort(rarest[spare])], [chr(code) for code in np.sort(rarest[~spare])]


def replace_characters(rare: Sequence[str], texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts with spaces for the characters in `rare`."""
    table = str.maketrans(dict.fromkeys(rare, " "))
    return (text.translate(table) for text in texts)
