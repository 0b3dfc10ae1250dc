"""Train a Unigram tokenizer as SentencePiece would make it: spaces as ▁, bytes for characters that are too rare."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from leanpipe.tokens.encode import Encoder, encode
from leanpipe.tokens.vocabulary import (
    SPECIAL_TOKENS,
    UNKNOWN,
    check_alphabet,
    rare_and_common_characters,
    replace_characters,
    vocabulary_too_large,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_BYTE_SCORE = -1000.0  # so bad that no text which merely spells out "<0x41>" becomes that token
_NAMES = [*SPECIAL_TOKENS, UNKNOWN]
_MAX_RARE = 0.05  # of the pieces; Gowda and May 2020 ask for 95 % of the vocabulary to be frequent
# What may be one piece: letters, digits or other signs, with a space before them, as SentencePiece's own trainer has it
# by default (split_by_unicode_script, split_by_number). The trainer's time goes by the number and length of different
# words: split at spaces only it takes five times as long. No word is longer than 64 characters, for the sake of DNA.
_WORDS = r"▁?[\p{L}\p{M}]{1,64}|▁?\p{N}{1,64}|▁?[^\p{L}\p{M}\p{N}▁\s]{1,64}|▁{1,64}(?=▁)|▁|\s{1,64}"


def train_unigram(texts: Iterable[str], vocabulary: int, min_occurrences: int) -> "Tokenizer":
    """Train a Unigram tokenizer (Kudo 2018, "Subword Regularization", section 3.2).

    The trainer keeps pieces that hardly occur. Where they are more than 5 %, it is tried how many the text supports.
    Raises UserError as `train_tokenizer` does.
    """
    rare, common = rare_and_common_characters(texts)
    check_alphabet("unigram", len(_NAMES) + len(_BYTES) + len(common), vocabulary)
    size = vocabulary - len(_BYTES)
    while True:
        tokenizer = _fit(replace_characters(rare, texts), size)
        reached, supported = (
            tokenizer.get_vocab_size(),
            _supported(tokenizer, replace_characters(rare, texts), min_occurrences),
        )
        if reached - supported <= _MAX_RARE * reached:
            break
        size = supported
    if reached + len(_BYTES) < vocabulary:
        raise vocabulary_too_large("unigram", reached + len(_BYTES), vocabulary, min_occurrences)
    return _with_bytes(tokenizer)


def _fit(texts: Iterable[str], size: int) -> "Tokenizer":
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = _splitter()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=_NAMES, unk_token=UNKNOWN, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _supported(tokenizer: "Tokenizer", texts: Iterable[str], min_occurrences: int) -> int:
    """How many of its tokens occur so often in the texts, or are special or single characters."""
    counts: np.ndarray = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for batch in encode(Encoder(tokenizer), texts, None):
        counts += np.bincount(batch.tokens, minlength=len(counts))
    names = [tokenizer.id_to_token(token) or "" for token in range(len(counts))]
    needed = [name in _NAMES or len(name) == 1 for name in names]
    return int(np.count_nonzero(np.array(needed) | (counts >= min_occurrences)))


def _with_bytes(tokenizer: "Tokenizer") -> "Tokenizer":
    """Make a tokenizer of the pieces, best first, after special tokens and bytes."""
    from tokenizers import Tokenizer, decoders, models

    learnt = json.loads(tokenizer.to_str())["model"]["vocab"][len(_NAMES) :]
    pieces = sorted(
        ((piece, round(score, 3)) for piece, score in learnt), key=lambda pair: (-pair[1], pair[0])
    )
    entries = [*((name, 0.0) for name in _NAMES), *((byte, _BYTE_SCORE) for byte in _BYTES), *pieces]
    final = Tokenizer(models.Unigram(entries, unk_id=_NAMES.index(UNKNOWN), byte_fallback=True))
    final.pre_tokenizer = tokenizer.pre_tokenizer
    final.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    final.add_special_tokens(_NAMES)
    return final


def _splitter() -> "PreTokenizer":
    from tokenizers import Regex, pre_tokenizers

    spaces = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    return pre_tokenizers.Sequence([spaces, pre_tokenizers.Split(Regex(_WORDS), "isolated")])
