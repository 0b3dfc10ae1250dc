"""Train a BPE tokenizer on bytes, as GPT-2's."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from leanpipe.tokens.vocabulary import SPECIAL_TOKENS, fit_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def train_bpe(texts: Iterable[str], vocabulary: int, min_occurrences: int) -> "Tokenizer":
    """Train a BPE tokenizer (Radford et al. 2019, section 2.2); pairs rarer than `min_occurrences` are not merged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=min_occurrences,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return fit_tokenizer(tokenizer, trainer, texts, vocabulary, "bpe", min_occurrences)
