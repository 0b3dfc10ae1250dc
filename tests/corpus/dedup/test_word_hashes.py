import inspect
import re

import numpy as np
import pytest

from leanpipe.corpus.dedup import word_hashes as wordhash
from leanpipe.corpus.dedup.word_hashes import shingles, shingles_of_sizes, word_hashes, word_spans

LONG = "pneumono" * 8  # 64 bytes, the longest word that is hashed by blocks


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


def test_words_are_letters_digits_and_their_marks():
    assert words("Don't, 'stop_here' — 3.5kg!\tÜber  ") == ["Don", "t", "stop", "here", "3", "5kg", "Über"]
    assert words("हिन्दी में") == ["हिन्दी", "में"]
    assert words("cafe\u0301 ❤\ufe0f 👍") == ["cafe\u0301"]
    assert words("") == words(" .,;_\0\n") == []


def test_letters_of_scripts_without_spaces_are_words_of_their_own():
    assert words("蜜蜂是insects。") == ["蜜", "蜂", "是", "insects"]
    assert words("カタ한국어 ไทย") == ["カ", "タ", "한국어", "ไ", "ท", "ย"]


@pytest.mark.parametrize("around", ["{}", "a {} b", "«{}»", "蜜{}蜂", "İ {} İ", "x" * 300_000 + " {} 3"])
@pytest.mark.parametrize(
    "word", ["a", "seven77", "eighteig", "ninenines", LONG, LONG + "x", "straße", "ÉCOLE"]
)
def test_a_word_has_one_number_wherever_it_stands(around: str, word: str):
    text = around.format(word)
    place = words(text).index(word)
    assert word_hashes(text)[place] == word_hashes(word.lower())[0] == word_hashes(word.capitalize())[0]


def test_different_words_have_different_numbers():
    letters = "abcdefghijklmnopqrstuvwxyzäß0123456789"
    different = {a + b + c for a in letters for b in letters for c in letters}
    different |= {letter * length for letter in letters for length in range(1, 100)}
    different |= {LONG + letter for letter in letters} | {letter + LONG for letter in letters}
    different |= {"abba" * 8 + "baab" * 8, "baab" * 8 + "abba" * 8}
    hashes = word_hashes(" ".join(sorted(different)))
    assert len(hashes) == len(np.unique(hashes)) == len(different)
    assert np.abs(np.unpackbits(hashes.view(np.uint8)).mean() - 0.5) < 0.01


def test_a_text_is_hashed_the_same_in_pieces(monkeypatch):
    text = "One two, three… four FIVE; sechs ß 蜜蜂。Ἀριστοτέλης İstanbul\n" * 50
    whole, spans = word_hashes(text), word_spans(text)
    monkeypatch.setattr(wordhash, "_CHUNK", 7)
    assert (word_hashes(text) == whole).all() and (word_spans(text) == spans).all()
    assert len(whole) == len(spans) == 50 * 11
    assert len(np.unique(whole)) == 11


def test_ordinary_words_are_those_of_a_regular_expression():
    text = inspect.getsource(wordhash) + "naïve Ωμέγα — „Größe“"
    assert words(text) == re.findall(r"[^\W_]+", text)


def test_half_a_surrogate_pair_is_no_word_and_no_error():
    assert words("a\ud800b") == ["a", "b"]
    assert len(word_hashes("a\ud800b \udfff")) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8, 13, 50])
def test_a_run_has_the_number_of_its_words_in_their_order(size: int):
    text = " ".join(f"word{number}" for number in range(60))
    runs = shingles(word_hashes(text), size)
    assert len(runs) == len(np.unique(runs)) == 60 - size + 1
    third = " ".join(text.split()[3 : 3 + size])
    assert runs[3] == shingles(word_hashes(third.upper()), size)[0]
    if size > 1:
        assert runs[3] != shingles(word_hashes(" ".join(reversed(third.split()))), size)[0]


@pytest.mark.parametrize("sizes", [[], [1], [13], [8, 9, 10, 11, 12, 13], [3, 7, 20, 60], [2, 50, 51]])
def test_runs_of_several_sizes_are_those_of_each(sizes: list[int]):
    hashes = word_hashes(" ".join(f"word{number}" for number in range(60)))
    expected = [number for size in sizes for number in shingles(hashes, size).tolist()]
    assert shingles_of_sizes(hashes, sizes).tolist() == expected


def test_a_text_shorter_than_a_run_is_one_run_that_no_longer_one_equals():
    short = word_hashes("one two three")
    assert len(shingles(short, 5)) == 1
    assert shingles(short, 5)[0] == shingles(short, 4)[0] == shingles(short, 3)[0]
    assert shingles(short, 5)[0] not in shingles(word_hashes("one two three four five"), 5)
    assert len(shingles(word_hashes("..."), 5)) == 0


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "蜜" * 10**6, "a " * 500_000, (LONG + "x ") * 15_000, "é" * 10**6]
)
def test_texts_meant_to_be_slow_are_not(text: str):
    assert len(word_hashes(text)) == len(text.split()) or "蜜" in text
