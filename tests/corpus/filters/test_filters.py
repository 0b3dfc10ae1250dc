"""Gopher's quality rules and FineWeb's by numbers that can be counted by hand, and all filters together."""

import pytest

from leanpipe.corpus.document import Fault
from leanpipe.corpus.filters import (
    C4Config,
    DocumentStatistics,
    Filters,
    FineWebConfig,
    QualityConfig,
    RepetitionConfig,
    c4_clean,
    filter_faults,
    fineweb_faults,
    fineweb_measures,
    quality_faults,
    quality_measures,
    repetition_faults,
    repetition_measures,
)
from leanpipe.corpus.filters.language import detect_language
from tests.support.tiny_models import tiny_text

ALL = Filters(c4=C4Config(enabled=True), fineweb=FineWebConfig(enabled=True))
OPEN = QualityConfig(min_words=0, min_alphabetic_words=0, min_stop_words=0, min_mean_word_length=0)
"""Quality rules that a few words pass."""


def filter_text(text: str, language: str, filters: Filters) -> tuple[str, Fault | None]:
    """(what is left of the text, the first fault), as cleaning asks: nothing is measured after a fault."""
    faults = filter_faults(DocumentStatistics(text, language), filters)
    try:
        return text, next(faults)
    except StopIteration as end:
        return end.value, None


def all_faults(text: str, language: str, filters: Filters) -> list[Fault]:
    """Every fault, as a dry run asks."""
    return list(filter_faults(DocumentStatistics(text, language), filters))


def quality(text: str, punctuation: bool = False) -> dict[str, float]:
    return {
        measure.field: measure.value
        for measure in quality_measures(DocumentStatistics(text, "en"), punctuation)
    }


def fineweb(text: str) -> dict[str, float]:
    return {measure.field: measure.value for measure in fineweb_measures(DocumentStatistics(text, "en"), 30)}


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("one, two; three.", "min_words", 3),
        ("one, two; three.", "max_words", 3),
        ("a, bbb", "min_mean_word_length", 2),
        ("a, bbb", "max_mean_word_length", 2),
        ("# one # two", "max_hashes_per_word", 1),
        ("one... two… three four", "max_ellipses_per_word", 0.5),
        ("one 2 3,4 five5", "min_alphabetic_words", 0.5),
        ("The dog and THE cat, that is.", "min_stop_words", 3),  # the, and, that
        ("- a\n\n• b\nc\n  * d", "max_bullet_lines", 0.75),
        ("a...\nb…\nc\nd", "max_ellipsis_lines", 0.5),
        ("", "min_words", 0),
        ("", "min_alphabetic_words", 0),
        ("", "max_bullet_lines", 0),
    ],
)
def test_quality_measures(text: str, field: str, value: float):
    assert quality(text)[field] == value


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("# one # two", "max_hashes_per_word", 0.5),  # of four
        ("one, 2, three", "min_alphabetic_words", 0.4),  # of five
        ("one, two; three.", "min_words", 3),
    ],
)
def test_quality_measures_where_marks_are_words(text: str, field: str, value: float):
    assert quality(text, punctuation=True)[field] == value


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("One.\nTwo\n\nThree!\nFour", "min_terminal_lines", 0.5),
        ("好。\n好", "min_terminal_lines", 0.5),
        ("x" * 30 + "\n" + "x" * 31, "max_short_lines", 0.5),
        ("aaaa\nbb\naaaa", "max_duplicate_line_characters", 0.4),
        ("a b\nc, d\n", "max_newlines_per_word", 0.4),  # two line ends, five words
        ("", "min_terminal_lines", 0),
        ("", "max_newlines_per_word", 0),
    ],
)
def test_fineweb_measures(text: str, field: str, value: float):
    assert fineweb(text)[field] == pytest.approx(value)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("min_terminal_lines", "a\nb\nc\nd\ne\nf\ng\nh\ni.", 1 / 9),
        (
            "max_short_lines",
            "Short.\n" + "A line that is longer than thirty characters.\nBrief.\nTiny.",
            0.75,
        ),
        ("max_duplicate_line_characters", ("A line that is longer than thirty letters.\n") * 2, 0.5),
        (
            "max_newlines_per_word",
            "Antidisestablishmentarianistically.\n\n\n" * 1 + "Floccinaucinihilipilification it is.",
            3 / 6,
        ),
    ],
)
def test_fineweb_names_what_is_broken(field: str, text: str, value: float):
    fault = next(fineweb_faults(DocumentStatistics(text, "en"), FineWebConfig(enabled=True)), None)
    assert fault == (f"fineweb.{field}", pytest.approx(value))
    assert (
        next(fineweb_faults(DocumentStatistics(text, "en"), FineWebConfig()), None) is None
    )  # off by default


def test_a_line_is_short_up_to_the_set_length():
    config = FineWebConfig(enabled=True, short_line=10)
    assert next(fineweb_faults(DocumentStatistics("Eleven chars.", "en"), config), None) is None
    assert next(fineweb_faults(DocumentStatistics("Ten chars.", "en"), config), None) == (
        "fineweb.max_short_lines",
        1,
    )


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (QualityConfig(), quality(tiny_text()[0])),
        (FineWebConfig(), fineweb(tiny_text()[0])),
    ],
)
def test_every_bound_is_measured_in_its_order(config, fields):
    assert list(fields) == [name for name in type(config).model_fields if name[:4] in ("min_", "max_")]


def test_bounds_themselves_are_allowed():
    document = DocumentStatistics("one two three the and", "en")
    within = OPEN.model_copy(update={"min_words": 5, "max_words": 5})
    assert next(quality_faults(document, within), None) is None
    assert next(quality_faults(document, within.model_copy(update={"min_words": 6})), None) == (
        "quality.min_words",
        5,
    )
    assert next(quality_faults(document, within.model_copy(update={"max_words": 4})), None) == (
        "quality.max_words",
        5,
    )
    assert next(quality_faults(document, QualityConfig(enabled=False)), None) is None


def test_a_document_far_too_long_is_dropped_by_how_many_words_it_has_at_least():
    text = "word, word " * 200_000
    expected = [("quality.max_words", 200_000)]  # those with a comma are not looked at
    assert all_faults(text, "en", ALL) == expected
    assert filter_text(text, "en", ALL) == (text, expected[0])
    assert (
        next(
            quality_faults(DocumentStatistics(text, "en"), OPEN.model_copy(update={"max_words": 10**9})), None
        )
        is None
    )


GERMAN = (
    "Die Biene sammelt im Frühling Nektar und Pollen, aus denen das Volk Honig macht. Der Imker nimmt im Sommer einen "
    "Teil davon und gibt den Tieren dafür Zucker, damit sie über den Winter kommen. In manchen Gegenden fliegen Bienen "
    "mehrere Kilometer weit, um eine gute Wiese zu finden, und zeigen einander den Weg durch einen Tanz auf der Wabe."
)
CHINESE = (
    "蜜蜂是一种会飞行的群居昆虫，属于膜翅目。工蜂负责采集花蜜和花粉，并在巢中酿造蜂蜜。"
    "春天来临时，养蜂人会检查蜂箱，确认蜂王仍在产卵。许多农作物依靠它们授粉，因此保护环境十分重要。"
    "秋天来了。冬天也来了。"
)
JAPANESE = (
    "ミツバチは花から花へと飛び回り、蜜や花粉を集めて巣に運びます。働き蜂は一生のうちにスプーン一杯ほどの蜂蜜しか作りません。"
    "養蜂家は春に巣箱を開けて、女王蜂が元気かどうかを確かめます。多くの作物は蜂に頼っています。冬は静かです。夏は忙しいです。"
)
THAI = (
    "ผึ้งเป็นแมลงที่อาศัยอยู่ร่วมกันเป็นฝูงใหญ่ ผึ้งงานออกไปหาน้ำหวานและเกสรจากดอกไม้ แล้วนำกลับมาเก็บไว้ในรัง "
    "เมื่อถึงฤดูใบไม้ผลิ คนเลี้ยงจะเปิดหีบเพื่อตรวจดูว่านางพญายังวางไข่อยู่หรือไม่ พืชหลายชนิดต้องพึ่งพาพวกมัน"
)


@pytest.mark.parametrize(
    ("text", "language"),
    [(GERMAN, "de"), (CHINESE, "zh"), (JAPANESE, "ja"), (THAI, "th"), (tiny_text()[0] * 3, "en")],
)
def test_languages_are_told_and_not_judged_by_english_words(text: str, language: str):
    assert detect_language(text, 1200) == language
    if language != "en":
        document = DocumentStatistics(text, language)
        assert next(quality_faults(document, QualityConfig()), None) is None
        assert next(repetition_faults(document, RepetitionConfig()), None) is None


@pytest.mark.parametrize(("text", "language"), [(CHINESE, "zh"), (JAPANESE, "ja"), (THAI, "th")])
def test_english_rules_on_lines_leave_other_scripts_alone(text: str, language: str):
    long_line = FineWebConfig(enabled=True, min_terminal_lines=0)  # Thai ends no line with a mark
    assert filter_text(text, language, Filters(c4=C4Config(enabled=True), fineweb=long_line)) == (text, None)


def test_language_is_told_by_the_middle_and_the_end_too():
    assert detect_language("Home About Contact\n" + GERMAN * 20, 300) == "de"


def every_measure(text: str, filters: Filters) -> list[Fault]:
    """The bounds that are broken if every rule measures all that it can, and none takes a short cut."""
    document = DocumentStatistics(text, "en")
    cleaned, found = c4_clean(document, filters.c4)
    measures = {
        "fineweb": fineweb_measures(DocumentStatistics(cleaned, "en"), filters.fineweb.short_line),
        "quality": quality_measures(document, filters.quality.punctuation),
        "repetition": repetition_measures(document),
    }
    for group, measured in measures.items():
        config = getattr(filters, group)
        for field, value in measured if config.enabled else ():
            bound = getattr(config, field)
            if value < bound if field.startswith("min_") else value > bound:
                found.append(Fault(f"{group}.{field}", value))
    return found


@pytest.mark.parametrize("filters", [Filters(), ALL, Filters(QualityConfig(punctuation=True), *ALL[1:])])
def test_cleaning_names_the_first_of_the_faults_that_a_dry_run_lists(filters: Filters):
    texts = [*tiny_text(), GERMAN, "", "one", "a b\n" * 500, "word " * 1000]
    listed = [all_faults(text, "en", filters) for text in texts]
    assert listed == [every_measure(text, filters) for text in texts]
    named = [filter_text(text, "en", filters)[1] for text in texts]
    assert named == [faults[0] if faults else None for faults in listed]
    assert len({fault.rule for fault in named if fault}) >= 3 and None in named
    assert max(map(len, listed)) > 3


def test_what_comes_after_the_first_fault_is_not_measured():
    document = DocumentStatistics("one two\n" * 3, "en")
    assert next(filter_faults(document, ALL)).rule == "c4.min_sentences"
    assert "words" not in vars(document) and "counts" not in vars(document)


def test_a_dry_run_lists_every_bound_that_is_broken():
    text = "# same line\n" * 4
    rules = dict(all_faults(text, "en", ALL))
    assert rules["quality.min_words"] == 8
    assert rules["quality.max_hashes_per_word"] == 0.5
    assert rules["quality.min_stop_words"] == 0
    assert rules["repetition.max_duplicate_lines"] == 0.75
    assert rules["repetition.max_top_2_gram"] == pytest.approx(4 * 6 / 48)  # "# same", the first of two
    assert rules["c4.min_sentences"] == 0
    assert rules["fineweb.min_terminal_lines"] == 0
    assert rules["fineweb.max_short_lines"] == 1


def test_fineweb_sees_what_c4_leaves():
    prose = "This sentence is longer than thirty characters, and it ends.\n"
    other = "So is this one, which also ends as a sentence does.\n"
    heading = "A heading of several words without an end\n"
    text = heading * 20 + prose + other
    filters = Filters(
        OPEN, RepetitionConfig(enabled=False), C4Config(enabled=True, min_sentences=2), ALL.fineweb
    )
    assert filter_text(text, "en", filters) == ((prose + other).strip(), None)
    kept_headings = filters._replace(c4=C4Config())
    assert filter_text(text, "en", kept_headings)[1] == ("fineweb.min_terminal_lines", pytest.approx(2 / 22))


@pytest.mark.parametrize("text", ["", "one", "one line of words", "\n\n\n", "...", "\ud800 x", "{", "- \n- "])
@pytest.mark.parametrize("language", ["en", "de", "zh", "th"])
def test_tiny_documents_are_dropped_for_their_length(text: str, language: str):
    assert filter_text(text, language, Filters())[1].rule == "quality.min_words"
    assert "quality.min_words" in dict(all_faults(text, language, ALL))
    none = Filters(*(config.model_copy(update={"enabled": False}) for config in ALL))
    assert filter_text(text, language, none) == (text, None)
    assert all_faults(text, language, none) == []


def test_a_million_words_that_are_all_the_same():
    text = "word " * 1_000_000
    rules = dict(all_faults(text, "en", Filters(QualityConfig(enabled=False))))
    assert rules["repetition.max_top_2_gram"] == 1
    assert 0.79 < rules["repetition.max_duplicate_10_grams"] <= 0.8  # white space is in no run
