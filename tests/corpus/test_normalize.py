import random

import ftfy
import pytest

from leanpipe.corpus import normalize as module
from leanpipe.corpus.normalize import normalize

UNTOUCHED = [
    "def f(x):\n\tif x:\n        return  x   # two  spaces\n\n\nclass A: ...",
    "| a   | b |\n| --- | --- |",
    "“Curly” quotes — dashes … and the ﬁ ligature",
    "Ｆｕｌｌ　ｗｉｄｔｈ カタカナ ｶﾀｶﾅ",
    "می‌خواهم",  # a zero-width non-joiner, which Persian spells with
    "👩‍👩‍👧 family",  # zero-width joiners
    "Tiếng Việt, العربية, עברית, हिन्दी, ไทย, 中文",
    "&lt;b&gt; in an article about HTML",
]


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_carries_meaning_stays(text: str):
    assert normalize(text) == text


@pytest.mark.parametrize(
    "text", ["naïve café – “quoted”", "Straße, Öl und Übung", "Привет, мир", "日本語の文章です"]
)
@pytest.mark.parametrize("times", [1, 2])
def test_mojibake_is_undone(text: str, times: int):
    broken = text
    for _ in range(times):
        broken = broken.encode().decode("sloppy-windows-1252")
    assert broken != text
    assert normalize(broken) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301", "é"),
        ("a\r\nb\rc\u2028d\x0ce", "a\nb\nc\nd\ne"),
        ("a\x00b\x07c\ufeffd\u00ade\u202ef", "abcdef"),
        ("a\u00a0b\u2003c", "a b c"),
        ("a  \t\nb \n", "a\nb"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\n \n \n \n \n b", "a\n\n\n b"),
        ("\n\n  indented", "  indented"),
        ("\ud800 alone", "\ufffd alone"),
        ("\ud83d\ude00 pair", "😀 pair"),
        (" \t\n ", ""),
        ("", ""),
    ],
)
def test_loose_ends_go(text: str, expected: str):
    assert normalize(text) == expected


@pytest.mark.parametrize("text", [*UNTOUCHED, "a\r\r\nb\x85c", "x \u00a0\n\u2028\n\n\n\ny", "cafÃ© e\u0301"])
def test_normal_text_is_normal(text: str):
    assert normalize(normalize(text)) == normalize(text)


def test_long_runs_of_spaces_take_linear_time():
    # In quadratic time this would not end before the time-out of the tests.
    assert normalize("a" + " " * 400_000 + "b" + "\n" * 400_000 + "c").startswith("a  ")


def test_a_line_of_mojibake_takes_linear_time():
    assert normalize("Ã©" * 200_000) == "é" * 200_000


# Real sentences with what makes mojibake hard to tell: accents in pairs, quotes, currencies, spaces that do not break.
SENTENCES = (
    "L’été, « à l’œuvre » : 5 000 € … n’est-ce pas ?",
    "Žluťoučký kůň úpěl ďábelské ódy.",
    "Zażółć gęślą jaźń; „cytat” – koniec.",
    "PARA AS FUNÇÕES E A EDUCAÇÃO, À VISTA",
    "¿Qué pasó? ¡Nada! 1ª y 2º, 20 °C ± 1",
    "Ångström vann £5 av Øystein – «sitat»",
    "В «СССР» было — №1, §2… Ґанок",
    "Ο Έλληνας είπε: «Ά, ναι»",
    "İstanbul’da ğüşiöç £ ÇÖŞ",
    "日本語の“引用”と×÷記号。",
    "Tiếng Việt có dấu: đặng, ệ, ữ “thế”",
    "नमस्ते “दुनिया” – ١٢٣ مرحبا «بكم»",
)
ENCODINGS = (
    "latin-1",
    "sloppy-windows-1252",
    "sloppy-windows-1251",
    "sloppy-windows-1250",
    "macroman",
    "cp437",
)


def broken(chance: random.Random) -> str:
    """A sentence, wholly or partly decoded wrongly, and with odd characters strewn in."""
    sentence = chance.choice(SENTENCES)
    start = chance.randrange(len(sentence))
    wrong = sentence[start:].encode().decode(chance.choice(ENCODINGS), errors="replace")
    odd = chance.choice(["", "", "\x85", "\ufffd", "\ud83d", "Ã ", "Â", "œ", "\r\n"])
    return (
        chance.choice([sentence, sentence[:start] + wrong, wrong]) + odd + chance.choice(["", "\n", " b\n"])
    )


def test_the_short_cut_around_ftfy_gives_what_ftfy_gives():
    chance = random.Random(0)
    changed = 0
    for _ in range(3000):
        text = "".join(broken(chance) for _ in range(chance.randrange(1, 4)))
        repaired = ftfy.fix_text(text, module._ftfy_config())
        assert module._repair(text) == repaired
        changed += repaired != text
    assert 1000 < changed < 2900  # both kinds are tried


@pytest.mark.parametrize("sentence", SENTENCES)
def test_real_sentences_are_not_touched(sentence: str):
    assert normalize(sentence) == sentence.replace("\u00a0", " ").replace("\u202f", " ")
