"""Whatever is left out, every text is still spelt, and text that needs nothing of it is cut as before."""

import json
import random
from collections.abc import Callable, Iterator

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from leanpipe.core.errors import UserError
from leanpipe.training.vocabulary.cut_tokenizer import CutTokenizer
from tests.support.tiny_models import tiny_text, tiny_tokenizer


def byte_level_bpe() -> Tokenizer:
    return Tokenizer.from_str(tiny_tokenizer(2_000).backend_tokenizer.to_str())


def sentencepiece_bpe() -> Tokenizer:
    """As Llama 2's and Gemma's: signs that are not in the vocabulary are written as their bytes."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", "<unused0>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1_500, special_tokens=special, show_progress=False)
    made.train_from_iterator((line for text in tiny_text() for line in text.splitlines()), trainer)
    # Bytes are pieces, and no added tokens.
    described = json.loads(made.to_str())
    described["added_tokens"] = described["added_tokens"][:4]
    return Tokenizer.from_str(json.dumps(described))


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.UnigramTrainer(
        vocab_size=1_500,
        special_tokens=["<unk>", "<s>"],
        unk_token="<unk>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(tiny_text(), trainer)
    return made


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=1_500, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    made.train_from_iterator(tiny_text(), trainer)
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return made


LOSSLESS = [byte_level_bpe, sentencepiece_bpe, unigram]
KINDS = [*LOSSLESS, wordpiece]


def cut_to(tokenizer: Tokenizer, texts: list[str]) -> tuple[Tokenizer, list[int]]:
    """The tokenizer with what `texts` use, and the old ids of its tokens."""
    whole = CutTokenizer(json.loads(tokenizer.to_str()))
    used = {index for text in texts for index in tokenizer.encode(text, add_special_tokens=False).ids}
    described, old = whole.cut(used | whole.always())
    return Tokenizer.from_str(json.dumps(described)), old


@pytest.mark.parametrize("make", KINDS)
def test_kept_text_is_cut_as_before(make: Callable[[], Tokenizer]):
    tokenizer, texts = make(), tiny_text()[:5]
    cut, old = cut_to(tokenizer, texts)
    assert len(old) < tokenizer.get_vocab_size()
    for text in texts:
        then, now = tokenizer.encode(text).ids, [old[index] for index in cut.encode(text).ids]
        if make is unigram:  # the same pieces in another order are as likely, and it takes either
            then, now = sorted(then), sorted(now)
        assert now == then


@pytest.mark.parametrize("make", LOSSLESS)
def test_any_text_is_still_spelt(make: Callable[[], Tokenizer]):
    cut, _ = cut_to(make(), ["a few words"])
    for text in random_texts(300):
        assert cut.decode(cut.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def random_texts(count: int) -> Iterator[str]:
    """Signs of all of Unicode, and words between them."""
    draw = random.Random(0)
    words = " ".join(tiny_text()[:3]).split()
    for _ in range(count):
        signs = [
            chr(draw.choice([draw.randrange(1, 0xD800), draw.randrange(0xE000, 0x110000)])) for _ in range(8)
        ]
        parts = signs + draw.sample(words, 4) + [" ", "\n", "\t  ", "0", "9"]
        draw.shuffle(parts)
        # The Llama-like tokenizers read a lower line as the space that it stands for.
        yield "".join(parts).replace("▁", "")


def test_wordpiece_spells_what_is_left_out_by_its_signs():
    tokenizer = wordpiece()
    cut, _ = cut_to(tokenizer, ["a"])
    for word in ("function", "statement"):
        assert len(tokenizer.encode(word, add_special_tokens=False).ids) < len(word)
        assert cut.encode(word, add_special_tokens=False).tokens == [
            sign if number == 0 else f"##{sign}" for number, sign in enumerate(word)
        ]


def test_special_tokens_stay_and_spare_ones_go():
    tokenizer = sentencepiece_bpe()
    whole = CutTokenizer(json.loads(tokenizer.to_str()))
    kept = {tokenizer.id_to_token(index) for index in whole.always()}
    assert {"<unk>", "<s>", "</s>", "<0x00>", "0", "9"} <= kept and "<unused0>" not in kept
    assert tokenizer.token_to_id("<unused0>") in whole.always(named="a template that says <unused0>")


def test_a_post_processor_has_the_new_ids():
    tokenizer = wordpiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)]
    )
    described = json.loads(tokenizer.to_str())
    whole = CutTokenizer(described)
    described, old = whole.cut(whole.always() - {0} | {700})
    cut = Tokenizer.from_str(json.dumps(described))
    assert [old[index] for index in cut.encode("").ids] == [1, 2] and 700 in old


def test_a_tokenizer_of_whole_words_is_refused():
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(UserError, match=r"kind WordLevel cannot be cut.*cut_vocabulary\.keep=all"):
        CutTokenizer(json.loads(words.to_str()))
