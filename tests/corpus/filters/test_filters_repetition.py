"""What a document repeats, by numbers that can be counted by hand and by slower ways to count them."""

import random
from collections import Counter

import numpy as np
import pytest

from leanpipe.corpus.filters import (
    DocumentStatistics,
    RepetitionConfig,
    repetition_faults,
    repetition_measures,
)
from leanpipe.corpus.filters.repetition import _sorted
from leanpipe.corpus.filters.word_split import split_chunk
from tests.support.tiny_models import tiny_text


def repetition(text: str, language: str = "en") -> dict[str, float]:
    return {
        measure.field: measure.value for measure in repetition_measures(DocumentStatistics(text, language))
    }


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("a\nb\na\na", "max_duplicate_lines", 0.5),  # 2 of 4 lines were there before
        ("aaaa\nbb\naaaa", "max_duplicate_line_characters", 4 / 12),  # of 12 with the line ends
        ("a\n\nb\n\na\n\nc", "max_duplicate_paragraphs", 0.25),
        ("aaa\n\nbbb\n\n\naaa", "max_duplicate_paragraph_characters", 3 / 14),
        ("aa b aa b c", "max_top_2_gram", 8 / 11),  # "aa b" twice: 8 of 11 characters
        ("a b c d", "max_top_2_gram", 0),  # nothing occurs twice
        ("a b c dd c dd a b", "max_top_2_gram", 6 / 17),  # "a b" and "c dd" are as common: the first counts
        ("a b c x a b c", "max_top_3_gram", 10 / 13),
        ("a b c d x a b c d", "max_top_4_gram", 14 / 17),
        ("a b c d e x a b c d e", "max_duplicate_5_grams", 5 / 21),
        (
            "a b c d e f x a b c d e f",
            "max_duplicate_5_grams",
            5 / 25,
        ),  # the second overlaps, and counts no more
        ("a b c d e f x a b c d e f", "max_duplicate_6_grams", 6 / 25),
        ("a b c d e f x a b c d e f", "max_duplicate_7_grams", 0),
        (" ".join("abcdefghij" * 2), "max_duplicate_10_grams", 10 / 39),
        ("a a a a", "max_top_2_gram", 1),  # 3 × 3 of 7 characters, for the pairs overlap
        ("好吗好吗", "max_top_2_gram", 0),
    ],
)
def test_measures(text: str, field: str, value: float):
    assert repetition(text).get(field, 0) == pytest.approx(value)


def test_in_languages_without_spaces_runs_are_of_letters():
    assert repetition("好吗好吗", "zh")["max_top_2_gram"] == 1  # 2 × 3, spaces counted as between words, of 4
    assert repetition("春夏秋冬天，春夏秋冬天。", "zh")["max_duplicate_5_grams"] == 5 / 12


def slow(text: str) -> dict[str, float]:
    """The same measures of runs of words, as one would write them down."""
    words = [word for chunk in text.split() for word in split_chunk(chunk)]
    found = {}
    for n in (2, 3, 4):
        runs = Counter(" ".join(words[place : place + n]) for place in range(len(words) - n + 1))
        run, count = max(runs.items(), key=lambda item: item[1], default=("", 0))
        found[f"max_top_{n}_gram"] = min(1, count * len(run) / len(text)) if count > 1 else 0
    for n in range(5, 11):
        seen, place, characters = set(), 0, 0
        while place + n <= len(words):
            run = tuple(words[place : place + n])
            characters += sum(map(len, run)) if run in seen else 0
            place += n if run in seen else 1
            seen.add(run)
        found[f"max_duplicate_{n}_grams"] = characters / len(text)
    return found


def texts() -> list[str]:
    """Real ones, and ones in which all that can repeat does."""
    chance = random.Random(0)
    drawn = [" ".join(chance.choices(["ab", "cde", "f,", "gh", "ii"], k=size)) for size in range(2, 60)]
    loops = ["one two three. " * 7, "a b c d e f g h " * 3 + "a b c", "x y " * 50]
    return [*tiny_text(), *drawn, *loops]


def test_all_runs_are_found():
    for text in texts():
        fast = repetition(text)
        for field, value in slow(text).items():
            assert fast.get(field, 0) == pytest.approx(value), (field, text[:100])


@pytest.mark.parametrize(
    "config",
    [
        RepetitionConfig(),
        RepetitionConfig(max_duplicate_lines=1, max_duplicate_line_characters=1, max_duplicate_5_grams=0.05),
        RepetitionConfig(
            max_top_2_gram=0.02, max_top_3_gram=0.03, max_top_4_gram=0.03, max_duplicate_5_grams=1
        ),
        RepetitionConfig(max_top_2_gram=1, max_top_3_gram=1, max_top_4_gram=0, max_duplicate_9_grams=0.01),
        RepetitionConfig(max_top_2_gram=1, max_top_3_gram=0.05, max_top_4_gram=1, max_duplicate_10_grams=0),
    ],
)
def test_what_is_skipped_breaks_no_bound(config: RepetitionConfig):
    """Most measures are not taken where they cannot break a bound: the faults are those of taking them all."""
    named = set()
    for text in texts():
        document = DocumentStatistics(text, "en")
        broken = [
            (f"repetition.{field}", pytest.approx(value))
            for field, value in repetition_measures(document)
            if value > getattr(config, field)
        ]
        assert list(repetition_faults(document, config)) == broken
        named.add(broken[0][0] if broken else None)
    assert None in named and len(named) > 2


def test_every_bound_is_measured_in_its_order():
    fields = list(repetition("a b c d e f g h i j k " * 3))
    assert fields == [name for name in RepetitionConfig.model_fields if name != "enabled"]


def test_repetition_names_its_field():
    document = DocumentStatistics("same line\n" * 4, "en")
    assert next(repetition_faults(document, RepetitionConfig()), None) == (
        "repetition.max_duplicate_lines",
        0.75,
    )
    assert next(repetition_faults(document, RepetitionConfig(enabled=False)), None) is None


def test_the_papers_thresholds_are_the_defaults():
    config = RepetitionConfig()
    assert (config.max_duplicate_lines, config.max_duplicate_paragraphs) == (0.3, 0.3)
    assert [getattr(config, f"max_top_{n}_gram") for n in (2, 3, 4)] == [0.2, 0.18, 0.16]
    duplicates = [getattr(config, f"max_duplicate_{n}_grams") for n in range(5, 11)]
    assert duplicates == [0.15, 0.14, 0.13, 0.12, 0.11, 0.1]


def test_a_long_document_is_measured():
    text = " ".join(str(number) for number in range(300_000))
    assert repetition(text).get("max_duplicate_10_grams", 0) == 0
    assert repetition("ab " * 300_000)["max_duplicate_10_grams"] == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize("bits", [6, 60])  # numbers that leave room for their places, and ones that do not
def test_equal_numbers_keep_their_order(bits: int):
    keys = np.array(random.Random(1).choices(range(64), k=1000)) << (bits - 6)
    order, ordered = _sorted(keys, bits)
    assert order.tolist() == sorted(range(1000), key=lambda place: (keys[place], place))
    assert ordered.tolist() == sorted(keys.tolist())
