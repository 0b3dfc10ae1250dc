"""Train a tokenizer on the corpus: one of the three kinds in use, with the special tokens and template of ChatML."""

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from leanpipe.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.trainers import Trainer
    from transformers import PreTrainedTokenizerFast

SEPARATOR, TURN_START, TURN_END, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"
SPECIAL = [SEPARATOR, TURN_START, TURN_END]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COVERAGE = 0.9995  # SentencePiece's character_coverage: rarer characters get no token of their own
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_BYTE_SCORE = -1000.0  # so bad that no text which merely spells out "<0x41>" becomes that token

Kind = Literal["bpe", "wordpiece", "unigram"]


def train_tokenizer(kind: Kind, texts: Sequence[str], vocabulary: int) -> "PreTrainedTokenizerFast":
    """A tokenizer of exactly `vocabulary` tokens, learnt from `texts`.

    `bpe` works on bytes as GPT-2's does (Radford et al. 2019, section 2.2). `unigram` is SentencePiece's (Kudo 2018)
    with bytes for rare characters; trained twice, its scores may differ in the third digit. Both give back every text
    exactly. `wordpiece` is BERT's (Wu et al. 2016, section 4.1), which forgets white space and rare characters.
    Raises UserError if the texts do not hold that many different pieces, or more characters than that.
    """
    return _wrap(
        {"bpe": _train_bpe, "wordpiece": _train_wordpiece, "unigram": _train_unigram}[kind](texts, vocabulary)
    )


def _train_bpe(texts: Sequence[str], vocabulary: int) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return _fit(tokenizer, trainer, texts, vocabulary, "bpe")


def _train_wordpiece(texts: Sequence[str], vocabulary: int) -> "Tokenizer":
    """The trainer numbers the characters within words by chance, and ties are settled by number; so we number them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    rare, common = _characters(texts)
    seeds = [f"##{char}" for char in common if not char.isspace() and not _is_punctuation(char)]
    special = [*SPECIAL, UNKNOWN]
    _check_alphabet("wordpiece", len(special) + len(seeds) + len(common), vocabulary)
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=special + seeds, show_progress=False
    )
    tokens = _fit(tokenizer, trainer, _without(rare, texts), vocabulary, "wordpiece").get_vocab()
    final = Tokenizer(models.WordPiece(tokens, unk_token=UNKNOWN))
    final.pre_tokenizer = tokenizer.pre_tokenizer
    final.decoder = decoders.WordPiece()
    final.add_special_tokens(special)
    return final


def _train_unigram(texts: Sequence[str], vocabulary: int) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    rare, common = _characters(texts)
    special = [*SPECIAL, UNKNOWN]
    _check_alphabet("unigram", len(special) + len(_BYTES) + len(common), vocabulary)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary - len(_BYTES), special_tokens=special, unk_token=UNKNOWN, show_progress=False
    )
    _fit(tokenizer, trainer, _without(rare, texts), vocabulary, "unigram", len(_BYTES))
    learnt = json.loads(tokenizer.to_str())["model"]["vocab"][len(special) :]
    pieces = sorted(
        ((piece, round(score, 3)) for piece, score in learnt), key=lambda pair: (-pair[1], pair[0])
    )
    entries = [*((name, 0.0) for name in special), *((byte, _BYTE_SCORE) for byte in _BYTES), *pieces]
    final = Tokenizer(models.Unigram(entries, unk_id=special.index(UNKNOWN), byte_fallback=True))
    final.pre_tokenizer = tokenizer.pre_tokenizer
    final.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    final.add_special_tokens(special)
    return final


def _fit(
    tokenizer: "Tokenizer",
    trainer: "Trainer",
    texts: Sequence[str],
    vocabulary: int,
    kind: str,
    added: int = 0,
) -> "Tokenizer":
    """Train, and refuse a result that is not of the size that was asked for, `added` tokens included."""
    tokenizer.train_from_iterator(texts, trainer)
    size = tokenizer.get_vocab_size() + added
    if size < vocabulary:
        raise UserError(
            f"the corpus supports a {kind} vocabulary of {size} tokens, not of {vocabulary}: "
            f"set tokenize.vocabulary to {size} or less, or give more text"
        )
    return tokenizer


def _check_alphabet(kind: str, least: int, vocabulary: int) -> None:
    if least > vocabulary:
        raise UserError(
            f"the corpus needs a {kind} vocabulary of more than {least} tokens for its characters alone, "
            f"not {vocabulary}: raise tokenize.vocabulary"
        )


def _characters(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The characters so rare that `COVERAGE` is reached without them, and all others, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    spare = (1 - COVERAGE) * counts.total()
    rare = set()
    for char, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        spare -= count
        if spare < 0:
            break
        rare.add(char)
    return sorted(rare), sorted(counts.keys() - rare)


def _without(rare: Sequence[str], texts: Sequence[str]) -> list[str]:
    table = str.maketrans(dict.fromkeys(rare, " "))
    return [text.translate(table) for text in texts]


def _is_punctuation(char: str) -> bool:
    """What BERT's pre-tokenizer makes a word of its own, so that it never continues one."""
    return (char.isascii() and not char.isalnum()) or unicodedata.category(char).startswith("P")


def _wrap(tokenizer: "Tokenizer") -> "PreTrainedTokenizerFast":
    """With the roles that transformers asks for. Turns begin and end with their own tokens, as in SmolLM2."""
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
