"""C4's rules on lines and pages, one by one."""

import pytest

from leanpipe.corpus.filters import C4Config, DocumentStatistics, c4_clean

ONLY = C4Config(
    enabled=True,
    min_words_per_line=0,
    citations=False,
    terminal_punctuation=False,
    lorem_ipsum=False,
    javascript=False,
    curly_brackets=False,
    policies=False,
    min_sentences=0,
)
"""No rule but that on long words."""


def only(**rules) -> C4Config:
    return ONLY.model_copy(update=rules)


def clean(text: str, config: C4Config, language: str = "en"):
    left, faults = c4_clean(DocumentStatistics(text, language), config)
    return left, faults[0] if faults else None


@pytest.mark.parametrize(
    ("config", "text", "left"),
    [
        (only(), "a\n\n  b  \nc", "a\nb\nc"),
        (only(max_word_length=3), "abc abc\nabcd x\nabc", "abc abc\nabc"),
        (only(min_words_per_line=3), "one two\none two three\n1 2 3 4", "one two three\n1 2 3 4"),
        (only(citations=True), "So[1] it[23] is[edit][citation needed][] [x]", "So it is [x]"),
        (
            only(terminal_punctuation=True),
            "a.\nb?\nc!\n\"d\"\n'e'\nf...\ng,\nh\n“i”\n好。",
            "a.\nb?\nc!\n\"d\"\n'e'\n“i”\n好。",
        ),
        (only(javascript=True), "Enable JavaScript now\nor else\nno script", "or else\nno script"),
        (only(policies=True), "Our Privacy Policy here\nWe use cookies\nI bake cookies", "I bake cookies"),
    ],
)
def test_lines_that_are_taken_out(config: C4Config, text: str, left: str):
    assert clean(text, config) == (left, None)


@pytest.mark.parametrize(
    ("config", "text", "rule", "value"),
    [
        (only(lorem_ipsum=True), "Lorem Ipsum dolor\nlorem ipsum", "c4.lorem_ipsum", 2),
        (only(curly_brackets=True), "int main() {\n{}\n}", "c4.curly_brackets", 2),
        (only(min_sentences=5), "One. Two.\nThree. Four", "c4.min_sentences", 4),
        (only(min_sentences=1), "", "c4.min_sentences", 0),
    ],
)
def test_documents_that_are_dropped_are_left_as_they_were(config: C4Config, text: str, rule: str, value: int):
    assert clean(text, config) == (text, (rule, value))


def test_each_sentence_counts_wherever_it_stands():
    assert clean("One. Two. Three.\nFour.\nFive", only(min_sentences=5))[1] is None
    assert clean("1\n2\n3\n4\n5", only(min_sentences=5))[1] is None
    assert clean("一。二。三。四。五。", only(min_sentences=5), "zh")[1] is None
    assert clean("一。二。三。四。", only(min_sentences=5), "zh")[1] == ("c4.min_sentences", 4)


def test_a_phrase_in_a_line_that_goes_drops_no_page():
    config = C4Config(enabled=True, min_sentences=1)
    assert clean("lorem ipsum {\nThis is what stays.", config) == ("This is what stays.", None)
    assert clean("Here is javascript {.\nThis is what stays.", config) == ("This is what stays.", None)
    assert clean("We use cookies {.\nThis is what stays.", config)[1] == ("c4.curly_brackets", 1)


def test_in_languages_without_spaces_words_are_letters():
    config = only(min_words_per_line=3, max_word_length=5)
    assert clean("你好\n你好吗\n春天来临时养蜂人会检查蜂箱", config, "zh") == (
        "你好吗\n春天来临时养蜂人会检查蜂箱",
        None,
    )


def test_nothing_is_touched_by_default():
    text = "no end {\n\n lorem ipsum javascript [1]"
    assert clean(text, C4Config()) == (text, None)
