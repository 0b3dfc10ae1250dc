import json

import numpy as np
import pytest

from leanpipe.core.errors import UserError
from leanpipe.corpus.decontam import ngram_index
from leanpipe.corpus.decontam.decontaminate import DecontaminateConfig, OverlapIndex, ngram_hashes
from leanpipe.corpus.decontam.evaluation_sets import read_evaluation_set

CONFIG = DecontaminateConfig()


def words(start: int, count: int, what: str = "word") -> str:
    """`count` different words: `word5 word6 …`."""
    return " ".join(f"{what}{number}" for number in range(start, start + count))


def index(tmp_path, texts, config=CONFIG) -> OverlapIndex:
    folder = tmp_path / f"index{len(list(tmp_path.iterdir()))}"
    OverlapIndex.of_texts(texts, config).save(folder)
    return OverlapIndex.load(folder)


def name_of(evaluation: OverlapIndex, text: str) -> str:
    found = evaluation.overlap(text)
    return found.name if found else ""


def test_a_document_that_holds_an_evaluation_text_is_named_with_set_share_and_passage(tmp_path):
    found = index(tmp_path, [("a", words(0, 50)), ("b", words(100, 50))]).overlap(
        f"{words(0, 30, 'other')}, {words(110, 20).upper()}!! {words(30, 50, 'other')}"
    )
    assert found is not None
    assert (found.rule, found.name) == ("decontaminate.max_overlap", "b")
    assert found.value == 20 / 50  # of the evaluation text's words; it is 20 of the document's 100
    assert found.passage == words(110, 20).upper()
    assert found.detail == f"b: {found.passage}"


def test_a_short_document_out_of_a_long_evaluation_text_is_found_by_its_own_share(tmp_path):
    found = index(tmp_path, [("a", words(0, 1000))]).overlap(f"x {words(500, 30)} y z")
    assert found is not None
    assert found.value == 30 / 33


@pytest.mark.parametrize(("shared", "value"), [(12, None), (13, 0.26), (14, 0.28)])
def test_a_run_has_thirteen_words(tmp_path, shared: int, value: float | None):
    found = index(tmp_path, [("a", words(0, 50))]).overlap(f"{words(0, 60, 'x')} {words(7, shared)} y")
    assert (found.value if found else None) == value


def test_runs_of_one_text_are_added_up_and_overlapping_ones_count_once(tmp_path):
    evaluation = index(tmp_path, [("a", words(0, 100))])
    document = f"{words(0, 15)} x {words(40, 15)} {words(0, 500, 'y')} {words(2, 13)}"
    found = evaluation.overlap(document)
    assert found is not None
    assert found.value == 30 / 100
    assert found.passage == words(0, 15)  # of the two longest, the first


@pytest.mark.parametrize(("max_overlap", "dropped"), [(0.0, True), (0.25, True), (0.26, False), (1.0, False)])
def test_the_threshold_is_the_largest_share_that_may_be(tmp_path, max_overlap: float, dropped: bool):
    config = DecontaminateConfig(max_overlap=max_overlap)
    found = index(tmp_path, [("a", words(0, 50))], config).overlap(f"{words(0, 13)} {words(0, 87, 'x')}")
    assert bool(found) == dropped


def test_words_of_a_run_can_be_fewer(tmp_path):
    text, document = words(0, 50), f"{words(3, 12)} {words(0, 100, 'x')}"
    assert not index(tmp_path, [("a", text)]).overlap(document)
    found = index(tmp_path, [("a", text)], DecontaminateConfig(ngram_words=12)).overlap(document)
    assert found and found.value == 12 / 50


def test_texts_shorter_than_a_run_are_found_whole_unless_they_are_very_short(tmp_path):
    question = "What is the capital of France today, please?"
    evaluation = index(tmp_path, [("a", question), ("b", words(0, 12)), ("c", "Where is Paris?")])
    assert len(evaluation) == 2
    found = evaluation.overlap(
        f"{words(0, 99, 'x')} what is the CAPITAL of france — today please {words(0, 99, 'y')}"
    )
    assert found and (found.name, found.value) == ("a", 1.0)
    assert found.passage == "what is the CAPITAL of france — today please"
    assert name_of(evaluation, f"x {words(0, 12)} y") == "b"
    assert not evaluation.overlap("what is the capital of France today, I ask, please? Where is Paris?")
    some = index(tmp_path, [("c", "Where is Paris?")], DecontaminateConfig(min_words=3))
    assert name_of(some, "where is paris") == "c"


def test_scripts_without_spaces_and_other_forms_of_letters(tmp_path):
    evaluation = index(
        tmp_path, [("zh", "蜜蜂是一种会飞行的昆虫，它们采集花蜜。"), ("fr", "caf\u0065\u0301 " * 13)]
    )
    assert name_of(evaluation, "你知道吗？蜜蜂是一种会飞行的昆虫它们采集花蜜！") == "zh"
    assert name_of(evaluation, "CAFÉ " * 13) == "fr"


def test_a_set_phrase_in_many_texts_counts_for_each(tmp_path):
    phrase = words(0, 13)
    texts = [("many", f"{phrase} {words(100 * number, 87, 'x')}") for number in range(1, 6)]
    texts.append(("last", f"{phrase} {words(0, 13, 'z')}"))
    found = index(tmp_path, texts).overlap(f"{phrase} {words(0, 13, 'z')} {words(0, 500, 'y')}")
    assert found and (found.name, found.value) == ("last", 1.0)


def test_an_index_without_texts_finds_nothing(tmp_path):
    for evaluation in (index(tmp_path, []), index(tmp_path, [("a", "too short")])):
        assert len(evaluation) == 0
        assert evaluation.overlap(words(0, 100)) is None
    assert index(tmp_path, [("a", words(0, 20))]).overlap("") is None


def noted(tmp_path, texts, counted: bool, config=CONFIG, shards: int = 2) -> OverlapIndex:
    """As the shards of a corpus note their held-out documents."""
    hashes = [
        [ngram_hashes(text, config.ngram_words) for text in texts[shard::shards]] for shard in range(shards)
    ]
    counts = [np.array([len(one) for one in some], np.uint32) for some in hashes] if counted else None
    folder = tmp_path / "noted"
    joined = [np.concatenate([np.empty(0, np.uint64), *some]) for some in hashes]
    OverlapIndex.of_hashes("held out", joined, config, counts).save(folder)
    return OverlapIndex.load(folder)


def test_held_out_documents_are_known_by_their_hashes(tmp_path):
    held_out = [words(0, 50), "short", words(100, 40), words(200, 26), ""]
    document = f"{words(0, 100, 'x')} {words(210, 16)} {words(0, 100, 'y')} {words(100, 13)}"
    found = noted(tmp_path, held_out, counted=True).overlap(document)
    assert found and (found.name, found.value, found.passage) == ("held out", 16 / 26, words(210, 16))
    assert (
        noted(tmp_path, held_out, counted=False).overlap(document) is None
    )  # 29 of the document's 229 words
    found = noted(tmp_path, held_out, counted=False).overlap(f"{words(210, 16)} {words(0, 5)}")
    assert found and found.value == 16 / 21
    assert noted(tmp_path, [], counted=False).overlap(document) is None
    assert noted(tmp_path, [], counted=True).overlap(document) is None


@pytest.mark.parametrize("batch", [7, 64])
def test_an_index_written_piece_by_piece_is_the_same(tmp_path, monkeypatch, batch: int):
    texts = [("a", words(0, 300)), ("b", words(1000, 200)), ("c", f"{words(0, 60)} {words(5000, 60)}")]
    index(tmp_path, texts)
    held_out = [text for _, text in texts]
    noted(tmp_path, held_out, counted=True)
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(whole) == 10
    monkeypatch.setattr(ngram_index, "BATCH", batch)
    OverlapIndex.of_texts(texts, CONFIG).save(tmp_path / "index0")
    noted(tmp_path, held_out, counted=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == whole


def test_every_run_of_the_table_is_found_and_no_other(tmp_path):
    rng = np.random.default_rng(0)
    runs = rng.integers(0, 2**64, 10_000, np.uint64, endpoint=False)
    runs[:3] = 0, 2**64 - 1, 1 << 63
    ngram_index.write_ngram_index(tmp_path, [(runs, np.arange(10_000, dtype=np.uint64))], 10_000)
    table = ngram_index.NgramIndex(tmp_path)
    found, places = table.find(runs)
    assert found.tolist() == places.tolist() == list(range(10_000))
    assert len(table.find(rng.integers(0, 2**64, 10_000, np.uint64, endpoint=False))[0]) == 0


def test_runs_are_regardless_of_case_and_punctuation():
    assert ngram_hashes("One, two: THREE", 2).tolist() == ngram_hashes("one two three!", 2).tolist()
    assert len(ngram_hashes(words(0, 20), 13)) == 8
    assert len(ngram_hashes(words(0, 12), 13)) == 0


def test_a_document_of_one_word_many_times_is_done_in_bounded_time(tmp_path):
    evaluation = index(tmp_path, [("a", "very " * 300_000), ("b", words(0, 20))])
    found = evaluation.overlap("very " * 300_000)
    assert found and found.value == 1.0
    assert len(found.passage) == 250


# Files of evaluation sets

ROW = {"question": words(0, 9, "q"), "choices": ["yes", "no"], "n": 3, "meta": {"source": words(0, 8, "s")}}
LONG = [words(0, 9, "q"), words(0, 8, "s")]


def read(path) -> list[str]:
    return [text for _, text in read_evaluation_set(path)]


def test_every_text_of_a_row_is_read(tmp_path):
    import gzip

    (tmp_path / "a.jsonl").write_text(json.dumps(ROW) + "\n\n" + json.dumps({"q": "Who?", "a": ["Me", None]}))
    assert read(tmp_path / "a.jsonl") == [*LONG, "Who?\nMe"]
    (tmp_path / "b.json").write_text("\ufeff" + json.dumps({"version": "1", "data": [ROW, words(0, 8)]}))
    assert sorted(read(tmp_path / "b.json")) == sorted([*LONG, words(0, 8)])
    (tmp_path / "c.csv").write_text(f'question,answer\n"{words(0, 9)}, or\n so",yes\nWho?,Me\n')
    assert read(tmp_path / "c.csv") == [f"{words(0, 9)}, or\n so", "Who?\nMe"]
    (tmp_path / "d.tsv.gz").write_bytes(gzip.compress(f"question\tanswer\nWho?\t{words(0, 9)}\n".encode()))
    assert read(tmp_path / "d.tsv.gz") == [words(0, 9)]
    (tmp_path / "e.txt").write_text("One\r\nparagraph.\r\n\r\nAnother.\n")
    assert read(tmp_path / "e.txt") == ["One\nparagraph.", "Another."]
    (tmp_path / "f.md").write_text("One prompt\nAnother prompt\n")
    assert read(tmp_path / "f.md") == ["One prompt", "Another prompt"]
    assert {name for name, _ in read_evaluation_set(tmp_path)} == {path.name for path in tmp_path.iterdir()}


def test_every_text_of_a_parquet_row_is_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW, ROW]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == LONG * 2


def test_files_of_evaluation_sets_make_an_index(tmp_path):
    (tmp_path / "sets" / "in").mkdir(parents=True)
    (tmp_path / "sets" / "in" / "a.jsonl").write_text(json.dumps({"q": words(0, 20)}))
    (tmp_path / "sets" / "README").write_text("no set")
    (tmp_path / "b.txt").write_text(words(50, 9))
    OverlapIndex.of_files([tmp_path / "sets", tmp_path / "b.txt"], CONFIG).save(tmp_path / "index")
    evaluation = OverlapIndex.load(tmp_path / "index")
    assert name_of(evaluation, words(0, 20)) == "in/a.jsonl"
    assert name_of(evaluation, words(50, 9)) == "b.txt"


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", b'{"q": "x"}\n{"q": \n', "line 2 is not JSON"),
        ("a.jsonl", DEEP.encode(), "line 1 is not JSON"),
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", bytes(range(256)) * 9, "binary, not text"),
        ("a.json", b'{"q": ', "the file is not JSON"),
        ("a.txt", b"", "empty"),
        ("a.csv", b'a,b\n"x, 1\n', "broken row"),
        ("a.parquet", b"PAR1" * 10, "damaged Parquet file"),
        ("a.jsonl.gz", b"\0\1no archive\2\3", "damaged archive"),
        ("a.pdf", b"x", "of an unknown kind"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, name: str, content: bytes, problem: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{problem}"):
        read(tmp_path / name)


def test_a_folder_without_evaluation_sets_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file that can be read"):
        read(tmp_path)
    with pytest.raises(UserError, match="there is nothing"):
        read(tmp_path / "missing")


def test_deep_rows_and_wide_rows_are_read_in_bounded_time(tmp_path):
    deep: dict = {"q": words(0, 8)}
    for _ in range(200):
        deep = {"inner": [deep]}
    wide = {str(number): "x" for number in range(100_000)}
    (tmp_path / "a.jsonl").write_text(json.dumps(deep) + "\n" + json.dumps(wide))
    assert words(0, 8) in read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "given",
    [{"ngram_words": 4}, {"min_words": 2}, {"max_overlap": 1.1}, {"max_overlap": -0.1}, {"threshold": 1}],
)
def test_settings_are_checked(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        DecontaminateConfig(**given)
