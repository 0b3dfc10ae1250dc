"""The figures, tables, pictures and card of a cleaned corpus that was made by hand."""

import csv
from pathlib import Path

import pytest
import yaml

from leanpipe.corpus.report.corpus_report import write_corpus_report
from leanpipe.corpus.report.data_card import data_card, for_a_page
from leanpipe.corpus.report.find_document import CORPUS
from leanpipe.corpus.report.stats import CorpusStats, compute_corpus_stats
from leanpipe.corpus.rule_names import format_value, rule_bound
from tests.support.cleaned_corpus import dropped, identity, kept, write_cleaned

CONFIG = {
    "languages": ["en"],
    "quality": {"enabled": True, "min_words": 50},
    "duplicates": {"exact": True, "near": True, "threshold": 0.8},
    "decontaminate": {"max_overlap": 0.2},
}
ROWS = [
    kept(1, "a" * 10),
    kept(2, "é" * 20, redactions=3),
    kept(3, "c" * 30, "validation", language="de"),
    kept(4, "d" * 40, "test", characters_read=400, source="pages.jsonl.gz#0"),
    dropped(5, "too short", "quality.min_words", 2),
    dropped(6, "three words here", "quality.min_words", 3),
    dropped(7, "f", "duplicates.near", 0.93, detail=f"of {identity(1)}", source="pages.jsonl.gz#1"),
    dropped(8, "", "extract.nothing", language="", source="README"),
    dropped(9, "leak", "decontaminate.max_overlap", 0.5, detail="What is | the answer?"),
]


@pytest.fixture
def cleaned(tmp_path: Path) -> Path:
    skipped = [
        ("x.png", "unknown kind of file", ""),
        ("y.png", "unknown kind of file", ""),
        ("z.txt", "empty", "0 bytes"),
    ]
    return write_cleaned(tmp_path / "cleaned", ROWS, skipped, {"email": 2, "phone": 1, "iban": 0})


@pytest.fixture
def totals(cleaned: Path) -> CorpusStats:
    return compute_corpus_stats(cleaned)


def test_every_document_is_counted_once(totals: CorpusStats):
    assert (totals.documents, totals.kept, totals.dropped) == (9, 4, 5)
    assert {name: rule.documents for name, rule in totals.rules.items()} == {
        "quality.min_words": 2,
        "decontaminate.max_overlap": 1,
        "duplicates.near": 1,
        "extract.nothing": 1,
    }
    assert next(iter(totals.rules)) == "quality.min_words"
    assert totals.groups() == {"quality": 2, "decontaminate": 1, "duplicates": 1, "extract": 1}


def test_sizes_are_those_of_the_texts(totals: CorpusStats):
    sizes = {name: (one.documents, one.characters, one.bytes) for name, one in totals.splits.items()}
    assert sizes == {"train": (2, 30, 50), "validation": (1, 30, 30), "test": (1, 40, 40)}
    assert round(totals.lengths_read.quantile(1)) == 400 and round(totals.lengths_kept.quantile(1)) == 40
    assert totals.rules["quality.min_words"].measured.mean == 2.5


def test_languages_kinds_and_redactions(totals: CorpusStats):
    assert totals.languages == {"en": 7, "de": 1, "": 1}
    assert totals.languages_kept == {"en": 3, "de": 1}
    assert totals.kinds == {".txt": 6, ".jsonl.gz": 2, "none": 1}
    assert totals.documents_redacted == 1
    assert totals.skipped == {"unknown kind of file": 2, "empty": 1}
    assert totals.skipped_examples["empty"] == ("z.txt", "0 bytes")


def test_samples_are_those_with_the_smallest_ids_of_all_shards(cleaned: Path):
    write_cleaned(cleaned, [kept(0, "zero"), kept(10, "ten")], shard="00001")
    assert [sample.text for sample in compute_corpus_stats(cleaned).samples] == ["zero", "a" * 10, "é" * 20]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"outcome": "lost"}, "10 documents were read, but 4 kept and 5 dropped"),
        ({"outcome": "kept"}, "the account says"),  # kept, and in no split
        ({"outcome": "kept", "split": "elsewhere"}, "the account says"),
    ],
)
def test_an_account_that_does_not_add_up_is_refused(cleaned: Path, row: dict, problem: str):
    write_cleaned(cleaned, [dropped(11, "text", "quality.min_words") | row], shard="00001")
    with pytest.raises(RuntimeError, match=problem):
        compute_corpus_stats(cleaned)


def test_a_text_that_is_not_on_disk_is_missed(cleaned: Path):
    (cleaned / "test" / "00000.parquet").unlink()
    with pytest.raises(RuntimeError, match="the files of the splits hold"):
        compute_corpus_stats(cleaned)


def test_the_report_is_whole(cleaned: Path):
    folder = cleaned / "report"
    write_corpus_report(folder, cleaned, CONFIG, ["/my/corpus"])
    tables = {"dropped.csv", "languages.csv", "splits.csv", "lengths.csv", "redacted.csv", "skipped.csv"}
    pictures = {"dropped.png", "languages.png", "lengths.png", "flow.png"}
    assert {path.name for path in folder.iterdir()} == {*tables, *pictures, "card.md", "samples.md", CORPUS}
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    with (folder / "dropped.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["rule"], first["bound"], first["documents"]) == ("quality.min_words", "50", "2")
    assert "validation,1,30,30\n" in (folder / "splits.csv").read_text()


def test_an_account_of_nothing_can_be_described(tmp_path: Path):
    write_corpus_report(tmp_path / "report", write_cleaned(tmp_path / "cleaned", []), CONFIG)
    assert "0 documents were read" in (tmp_path / "report" / "card.md").read_text()


def test_the_card_says_everything(totals: CorpusStats):
    card = data_card(totals, CONFIG, ["/my/corpus"])
    for sentence in (
        "9 documents were read. 4 (44.4%) were kept, 5 dropped",
        "- `/my/corpus`",
        "| train | 2 | 30 | 50 |",
        "| kept | 10 | 10 | 20 | 30 | 30 | 40 |",
        "| de | 1 | 1 |",
        "| `quality.min_words` | 50 | 2 | 22.2% | 2 |",
        "| near | 1 | 1 |",
        "resemblance of at least 0.8",
        "| 9.txt | 0.5 | What is \\| the answer? |",
        "Replaced in 1 of the documents",
        "| email | 2 |",
        "| empty | 1 | z.txt — 0 bytes |",
        "    too short",
        "min_words: 50",
    ):
        assert sentence in card
    assert "iban" not in card


def test_the_card_s_front_matter_is_that_of_the_hub(totals: CorpusStats):
    front = yaml.safe_load(data_card(totals, CONFIG).split("---\n")[1])
    assert front["language"] == ["en", "de"] and front["size_categories"] == ["n<1K"]
    assert front["configs"][0]["data_files"][0] == {"split": "train", "path": "train/*.parquet"}


@pytest.mark.parametrize(
    ("documents", "category"), [(999, "n<1K"), (1_000, "1K<n<10K"), (2_000_000, "1M<n<10M")]
)
def test_size_categories(totals: CorpusStats, documents: int, category: str):
    totals.kept = documents
    assert f"- {category}\n" in data_card(totals, CONFIG)


def test_on_a_page_there_are_neither_front_matter_nor_pictures(totals: CorpusStats):
    page = for_a_page(data_card(totals, CONFIG))
    assert page.startswith("# Data card\n") and "![" not in page and "## Settings" in page


def test_text_of_documents_cannot_break_the_card(tmp_path: Path):
    nasty = "</td>\n\n~~~\n# Heading\n![x](y)\n---\n| a | b |"
    rows = [dropped(1, nasty, "quality.min_words", source="a|b\n<script>.txt")]
    card = data_card(compute_corpus_stats(write_cleaned(tmp_path, rows)), CONFIG)
    assert "**a|b &lt;script>.txt**" in card
    assert all(f"    {line}\n" in card for line in nasty.splitlines())
    assert not any(line in card.splitlines() for line in nasty.splitlines() if line not in ("", "---"))


def test_bounds_are_found_by_the_name_of_the_rule():
    assert rule_bound(CONFIG, "quality.min_words") == 50
    assert rule_bound(CONFIG, "duplicates.near") == 0.8
    assert rule_bound(CONFIG, "duplicates.exact") is None and rule_bound(CONFIG, "extract.nothing") is None
    assert [format_value(value) for value in (["en", "de"], 0.12345, 1_000, None)] == [
        "en, de",
        "0.1235",
        "1,000",
        "",
    ]
