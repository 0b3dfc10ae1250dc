"""Train a tokenizer on the corpus: one of the three kinds in use, with the special tokens and template of ChatML."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from leanpipe.tokens.bpe import train_bpe
from leanpipe.tokens.unigram import train_unigram
from leanpipe.tokens.vocabulary import SEPARATOR, TURN_END, TURN_START, UNKNOWN, TokenizerKind
from leanpipe.tokens.wordpiece import train_wordpiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(
    kind: TokenizerKind, texts: Iterable[str], vocabulary: int, min_occurrences: int = 1
) -> "PreTrainedTokenizerFast":
    """Train a tokenizer of exactly `vocabulary` tokens on `texts`, which are iterated more than once.

    `bpe` works on bytes as GPT-2's does (Radford et al. 2019, section 2.2). `unigram` is SentencePiece's (Kudo 2018)
    with bytes for rare characters; trained twice, its scores may differ in the third digit. Both give back every text
    exactly. `wordpiece` is BERT's (Wu et al. 2016, section 4.1), which forgets white space and rare characters.
    Raises UserError if the texts do not show that many different pieces `min_occurrences` times each, or hold more
    characters than that.
    """
    train = {"bpe": train_bpe, "wordpiece": train_wordpiece, "unigram": train_unigram}[kind]
    return _wrap(train(texts, vocabulary, min_occurrences))


def _wrap(tokenizer: "Tokenizer") -> "PreTrainedTokenizerFast":
    """Give the tokenizer the roles that transformers asks for. Turns begin and end with their own tokens, as in SmolLM2."""
    from transformers import PreTrainedTokenizerFast

    unknown = UNKNOWN if tokenizer.token_to_id(UNKNOWN) is not None else SEPARATOR
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=TURN_START,
        eos_token=TURN_END,
        pad_token=TURN_END,
        unk_token=unknown,
    )
    wrapped.chat_template = CHATML
    return wrapped
