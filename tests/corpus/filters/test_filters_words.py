"""What a word is, as spaCy's English rules have it, and what is counted over them."""

import pytest

from leanpipe.corpus.filters import DocumentStatistics
from leanpipe.corpus.filters.document_statistics import _BLOCK
from leanpipe.corpus.filters.word_split import count_sentences, split_chunk


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        ("word", "word"),
        ("snake_case", "snake_case"),
        ("word,", "word ,"),
        ('("quoted")', '( " quoted " )'),
        ("end.", "end ."),
        ("end...", "end ..."),
        ("e.g.", "e.g."),
        ("(e.g.,", "( e.g. ,"),
        ("U.S.", "U.S."),
        ("Mr.", "Mr."),
        ("B.", "B."),
        ("SQL.", "SQL ."),
        ("don't", "do n't"),
        ("user’s", "user ’s"),
        ("we'll,", "we 'll ,"),
        ("well-known", "well - known"),
        ("--option", "--option"),
        ("1990-2000", "1990 - 2000"),
        ("3.14", "3.14"),
        ("1,000", "1,000"),
        ("10MB", "10 MB"),
        ("99%", "99 %"),
        ("$5", "$ 5"),
        ("either/or", "either / or"),
        ("and/or", "and/or"),
        ("key=value", "key = value"),
        ("one.Two", "one . Two"),
        ("a,b", "a , b"),
        ("call(x)", "call(x )"),
        ("http://example.org/a-b?c=d.", "http://example.org/a-b?c=d."),
        ("(www.example.org)", "( www.example.org )"),
        ("me@example.org,", "me@example.org ,"),
        ("postgresql.conf.", "postgresql.conf ."),
        ("…", "…"),
        ("«déjà»", "« déjà »"),
        ("yes👍👍", "yes 👍 👍"),
    ],
)
def test_words_of_a_chunk(chunk: str, words: str):
    assert split_chunk(chunk) == words.split()


@pytest.mark.parametrize(
    "piece", ["a.", "1%", "a@", "-", "a-", "'s", "a/", "http://a.", "1.1,", "+-*", "a:/", "😀", "("]
)
def test_a_million_characters_without_a_space_lose_none(piece: str):
    chunk = piece * (1_000_000 // len(piece))
    assert "".join(split_chunk(chunk)) == chunk


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("One. Two? Three!", 3),
        ("No end", 1),
        ("See e.g. Mr. Smith, who paid 3.50 in the U.S. for it.", 1),
        ('"Is it?" he asked. "Yes."', 3),  # a closing mark begins none
        ("Wait... what?", 1),
        ("", 1),
    ],
)
def test_sentences(line: str, count: int):
    assert count_sentences(line, 100) == count


def test_sentences_are_counted_only_as_far_as_needed():
    assert 5 <= count_sentences("One. " * 1000, 5) < 1000


def test_what_is_counted():
    counts = DocumentStatistics("The cat, the dog and 12 (e.g. 3)", "en").counts
    assert counts.words == 11  # The cat , the dog and 12 ( e.g. 3 )
    assert counts.real == 8  # The cat the dog and 12 e.g. 3
    assert counts.characters == 3 + 3 + 3 + 3 + 3 + 2 + 4 + 1
    assert counts.alphabetic == 6  # 12 and 3 have no letter
    assert counts.stop_words == 2  # the, and


@pytest.mark.parametrize(
    ("text", "language", "letters"),
    [("你好，a1", "zh", "你好a1"), ("こんにちは。", "ja", "こんにちは"), ("สวัสดี 12", "th", "สวสด12")],
)
def test_in_languages_without_spaces_every_letter_is_a_word(text: str, language: str, letters: str):
    document = DocumentStatistics(text, language)
    assert "".join(map(chr, document.words.numbers)) == letters
    assert document.counts.words == document.counts.real == document.counts.characters == len(letters)
    assert document.counts.alphabetic == sum(map(str.isalpha, letters))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("text", ["", " \n\n\t ", "...", "\ud800"])
def test_texts_without_words(text: str, language: str):
    document = DocumentStatistics(text, language)
    assert document.counts.real == 0
    assert len(document.words.numbers) == document.counts.words == len(document.words.lengths)


def test_the_same_word_has_the_same_number_across_blocks():
    count = _BLOCK // 6
    text = "one two " * count
    assert len(text) > _BLOCK
    numbers = DocumentStatistics(text, "en").words.numbers
    assert len(numbers) == 2 * count
    assert set(numbers[::2]) == {numbers[0]} != set(numbers[1::2]) == {numbers[1]}


def test_tables_do_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr("leanpipe.corpus.filters.document_statistics._MOST_CHUNKS", 100)
    for start in range(0, 2000, 50):
        words = [f"w{number}" for number in range(start, start + 50)]
        assert len(set(DocumentStatistics(" ".join(words), "en").words.numbers)) == 50
    assert DocumentStatistics("w1999 w1999", "en").words.numbers.max() < 150
