"""Train a WordPiece tokenizer, as BERT's."""

import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from leanpipe.tokens.vocabulary import (
    SPECIAL_TOKENS,
    UNKNOWN,
    check_alphabet,
    fit_tokenizer,
    rare_and_common_characters,
    replace_characters,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def train_wordpiece(texts: Iterable[str], vocabulary: int, min_occurrences: int) -> "Tokenizer":
    """Train a WordPiece tokenizer (Wu et al. 2016, section 4.1); pieces rarer than `min_occurrences` are not joined.

    The trainer numbers the characters within words by chance, and ties are settled by number; so we number them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    rare, common = rare_and_common_characters(texts)
    seeds = [f"##{char}" for char in common if not char.isspace() and not _is_punctuation(char)]
    special = [*SPECIAL_TOKENS, UNKNOWN]
    check_alphabet("wordpiece", len(special) + len(seeds) + len(common), vocabulary)
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        min_frequency=min_occurrences,
        special_tokens=special + seeds,
        show_progress=False,
    )
    fit_tokenizer(
        tokenizer, trainer, replace_characters(rare, texts), vocabulary, "wordpiece", min_occurrences
    )
    final = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token=UNKNOWN))
    final.pre_tokenizer = tokenizer.pre_tokenizer
    final.decoder = decoders.WordPiece()
    final.add_special_tokens(special)
    return final


def _is_punctuation(char: str) -> bool:
    """What BERT's pre-tokenizer makes a word of its own, so that it never continues one."""
    return (char.isascii() and not char.isalnum()) or unicodedata.category(char).startswith("P")
