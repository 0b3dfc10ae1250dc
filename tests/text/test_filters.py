"""Every measure by numbers that can be counted by hand."""

import pytest

from leanpipe.text.filters import (
    QualityConfig,
    RepetitionConfig,
    quality_fault,
    quality_measures,
    repetition_fault,
    repetition_measures,
    split_words,
)
from leanpipe.text.language import detect
from tests.tiny import tiny_text


def quality(text: str, language: str = "en") -> dict[str, float]:
    return {measure.field: measure.value for measure in quality_measures(text, language)}


def repetition(text: str) -> dict[str, float]:
    return {measure.field: measure.value for measure in repetition_measures(text, "en")}


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("one two three", "min_words", 3),
        ("one two three", "max_words", 3),
        ("a bbb", "min_mean_word_length", 2),
        ("# one # two", "max_hashes_per_word", 0.5),
        ("one... two… three four", "max_ellipses_per_word", 0.5),
        ("- a\n\n• b\nc\n* d", "max_bullet_lines", 0.75),
        ("a...\nb…\nc\nd", "max_ellipsis_lines", 0.5),
        ("one 2 3,4 five5", "min_alphabetic_words", 0.5),
        ("The dog and THE cat, that is.", "min_stop_words", 3),  # the, and, that
        ("", "min_words", 0),
        ("", "min_alphabetic_words", 0),
    ],
)
def test_quality_measures(text: str, field: str, value: float):
    assert quality(text)[field] == value


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("a\nb\na\na", "max_duplicate_lines", 0.5),  # 2 of 4 lines were there before
        ("aaaa\nbb\naaaa", "max_duplicate_line_characters", 0.4),  # 4 of 10
        ("a\n\nb\n\na\n\nc", "max_duplicate_paragraphs", 0.25),
        ("aaa\n\nbbb\n\naaa", "max_duplicate_paragraph_characters", 1 / 3),
        ("aa b aa b c", "max_top_2_gram", 6 / 7),  # "aa b" twice: 6 of 7 letters
        ("a b c d", "max_top_2_gram", 0),  # nothing occurs twice
        ("a b c x a b c", "max_top_3_gram", 6 / 7),
        ("a b c d x a b c d", "max_top_4_gram", 8 / 9),
        ("a b c d e x a b c d e", "max_duplicate_5_grams", 5 / 11),
        ("a b c d e f x a b c d e f", "max_duplicate_5_grams", 6 / 13),  # two runs overlap: each letter once
        ("a b c d e f x a b c d e f", "max_duplicate_6_grams", 6 / 13),
        ("a b c d e f x a b c d e f", "max_duplicate_7_grams", 0),
        (" ".join("abcdefghij" * 2), "max_duplicate_10_grams", 0.5),
    ],
)
def test_repetition_measures(text: str, field: str, value: float):
    assert repetition(text)[field] == pytest.approx(value)


@pytest.mark.parametrize(
    ("config", "measures"),
    [(QualityConfig(), quality), (RepetitionConfig(), repetition)],
)
def test_every_bound_is_measured_and_every_measure_is_bounded(config, measures):
    assert set(measures(tiny_text()[0])) == set(type(config).model_fields) - {"enabled"}


def test_bounds_themselves_are_allowed():
    text = "one two three the and"
    loose = {"min_alphabetic_words": 0.0, "max_mean_word_length": 99.0}
    assert quality_fault(text, "en", QualityConfig(min_words=5, max_words=5, **loose)) is None
    assert quality_fault(text, "en", QualityConfig(min_words=6, **loose)) == ("quality.min_words", 5)
    assert quality_fault(text, "en", QualityConfig(min_words=0, max_words=4, **loose)) == (
        "quality.max_words",
        5,
    )
    assert quality_fault(text, "en", QualityConfig(min_words=6, enabled=False)) is None


def test_repetition_names_its_field():
    text = "same line\n" * 4
    assert repetition_fault(text, "en", RepetitionConfig()) == ("repetition.max_duplicate_lines", 0.75)
    assert repetition_fault(text, "en", RepetitionConfig(enabled=False)) is None


def test_the_papers_thresholds_are_the_defaults():
    quality, repetition = QualityConfig(), RepetitionConfig()
    assert (quality.min_words, quality.max_words, quality.min_stop_words) == (50, 100_000, 2)
    assert (repetition.max_duplicate_lines, repetition.max_top_2_gram) == (0.3, 0.2)
    assert [getattr(repetition, f"max_duplicate_{n}_grams") for n in range(5, 11)] == [
        0.15,
        0.14,
        0.13,
        0.12,
        0.11,
        0.1,
    ]


GERMAN = (
    "Die Biene sammelt im Frühling Nektar und Pollen, aus denen das Volk Honig macht. Der Imker nimmt im Sommer einen "
    "Teil davon und gibt den Tieren dafür Zucker, damit sie über den Winter kommen. In manchen Gegenden fliegen Bienen "
    "mehrere Kilometer weit, um eine gute Wiese zu finden, und zeigen einander den Weg durch einen Tanz auf der Wabe."
)
CHINESE = (
    "蜜蜂是一种会飞行的群居昆虫，属于膜翅目。工蜂负责采集花蜜和花粉，并在巢中酿造蜂蜜。"
    "春天来临时，养蜂人会检查蜂箱，确认蜂王仍在产卵。许多农作物依靠它们授粉，因此保护环境十分重要。"
)


@pytest.mark.parametrize(("text", "language"), [(GERMAN, "de"), (CHINESE, "zh"), (tiny_text()[0] * 3, "en")])
def test_languages_are_told_and_not_judged_by_english_words(text: str, language: str):
    assert detect(text, 1200) == language
    if language != "en":
        assert quality_fault(text, language, QualityConfig()) is None
        assert repetition_fault(text, language, RepetitionConfig()) is None


def test_language_is_told_by_the_middle_and_the_end_too():
    assert detect("Home About Contact\n" + GERMAN * 20, 300) == "de"


def test_words_of_a_language_without_spaces():
    assert split_words("你好，a1", "zh") == ["你", "好", "a", "1"]


def test_a_long_document_is_measured():
    text = " ".join(str(number) for number in range(300_000))
    assert repetition(text)["max_duplicate_10_grams"] == 0
    assert repetition("a " * 300_000)["max_duplicate_10_grams"] > 0.99
