"""The whole stage, on real text and on hopeless text."""

import logging
from pathlib import Path

import pandas
import pytest
from pydantic import ValidationError

from leanpipe.errors import UserError
from leanpipe.report import Silent
from leanpipe.store import content_digest, digest_files
from leanpipe.text.clean import GROUPS, CleanConfig, CleanInputs, clean
from leanpipe.text.filters import QualityConfig, RepetitionConfig
from tests.tiny import tiny_text


def run(corpus: Path | tuple[Path, ...], out: Path, **config) -> tuple[dict, dict[str, pandas.DataFrame]]:
    out.mkdir()
    paths = corpus if isinstance(corpus, tuple) else (corpus,)
    summary = clean.function(CleanConfig(**config), CleanInputs(paths), out, Silent())
    return summary, {path.stem: pandas.read_parquet(path) for path in out.glob("*.parquet")}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """All help topics, one near duplicate, one text too short, one empty, one mojibake, one that is no text."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(tiny_text()):
        (folder / f"{number:02}.txt").write_text(text)
    longest = max(tiny_text(), key=len)
    (folder / "x-near.txt").write_text(longest.replace("class", "CLASS") + "\n\nOne more line.")
    (folder / "x-short.txt").write_text("Too short.")
    (folder / "x-blank.txt").write_text(" \n ")
    (folder / "x-mojibake.txt").write_bytes(
        ("Café “naïve” " + tiny_text()[3]).encode().decode("cp1252", "replace").encode()
    )
    (folder / "x-binary.txt").write_bytes(bytes(256))
    return folder


def test_every_document_is_kept_or_dropped_for_a_reason(corpus: Path, tmp_path: Path):
    summary, tables = run(corpus, tmp_path / "out")
    kept = pandas.concat([tables["train"], tables["validation"], tables["test"]])
    dropped = tables["dropped"]
    assert summary["documents_in"] == len(tiny_text()) + 4 == len(kept) + len(dropped)
    assert summary["documents_kept"] == len(kept) and summary["documents_dropped"] == len(dropped)
    assert sum(summary[f"dropped_{group}"] for group in GROUPS) == len(dropped)
    assert summary["characters_kept"] == kept.text.str.len().sum()
    assert summary["files_or_lines_skipped"] == 1
    assert pandas.concat([kept.id, dropped.id]).is_unique
    reasons = dict(zip(dropped.source, dropped.rule, strict=True))
    assert reasons["x-near.txt"] == "duplicates.near"
    assert reasons["x-short.txt"] == "quality.min_words"
    assert reasons["x-blank.txt"] == "empty"
    assert list(kept.columns) == ["id", "text", "source"]
    assert list(dropped.columns) == ["id", "source", "rule", "value", "start"]
    assert (dropped.set_index("source").loc["x-short.txt"][["value", "start"]] == [2, "Too short."]).all()
    counts = pandas.read_csv(tmp_path / "out/report/dropped.csv")
    assert dict(zip(counts.rule, counts.documents, strict=True)) == dropped.rule.value_counts().to_dict()


def test_mojibake_is_repaired_on_the_way(corpus: Path, tmp_path: Path):
    _, tables = run(corpus, tmp_path / "out", duplicates={"near": False})
    texts = pandas.concat(tables.values()).set_index("source").text
    assert texts["x-mojibake.txt"].startswith("Café “naïve")


def test_the_report_can_be_looked_at(corpus: Path, tmp_path: Path):
    run(corpus, tmp_path / "out")
    report = tmp_path / "out/report"
    assert {path.name for path in report.iterdir()} == {
        *(
            "dropped.png",
            "lengths.png",
            "dropped.csv",
            "languages.csv",
            "skipped.csv",
            "repaired.csv",
            "samples.md",
        )
    }
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in ("dropped.png", "lengths.png"))
    samples = (report / "samples.md").read_text()
    assert "# Kept" in samples and "# Dropped by duplicates.near (2)" in samples and "Too short." in samples
    assert 'x-binary.txt,"binary, not text"' in (report / "skipped.csv").read_text()


def test_the_same_corpus_gives_the_same_bytes(corpus: Path, tmp_path: Path):
    run(corpus, tmp_path / "one")
    moved = corpus.rename(tmp_path / "elsewhere")
    run(moved, tmp_path / "two")
    one, two = (content_digest(digest_files(tmp_path / name)) for name in ("one", "two"))
    assert one == two


def test_files_that_were_skipped_are_announced(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, logger="leanpipe"):
        run(corpus, tmp_path / "out")
    assert "1 files or lines were skipped: 1 × binary, not text" in caplog.text


def test_languages(corpus: Path, tmp_path: Path):
    german = (
        "Der Imker nimmt im Sommer einen Teil des Honigs und gibt den Tieren dafür Zucker für den Winter. "
    )
    (corpus / "y-german.txt").write_text("\n".join(f"{number}. {german}" for number in range(1)) * 4)
    off = {"quality": QualityConfig(enabled=False), "repetition": RepetitionConfig(enabled=False)}
    summary, tables = run(corpus, tmp_path / "out", languages=("en",), **off)
    dropped = tables["dropped"]
    assert list(dropped[dropped.source == "y-german.txt"].rule) == ["languages"]
    assert summary["dropped_languages"] == (dropped.rule == "languages").sum()
    with pytest.raises(ValidationError, match="unknown language codes: klingon"):
        CleanConfig(languages=("en", "klingon"))


def test_lines_and_columns_are_read_as_configured(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n".join(" ".join(text.split()) for text in tiny_text()[:40]))
    (tmp_path / "b.jsonl").write_text('{"body": "Too short."}\n')
    corpus = (tmp_path / "a.txt", tmp_path / "b.jsonl")
    summary, tables = run(corpus, tmp_path / "out", text_files="lines", text_columns=("body",))
    assert summary["documents_in"] == 41
    assert "b.jsonl" in set(tables["dropped"].source)


def test_a_whole_file_is_one_document_by_default(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n".join(tiny_text()))
    with pytest.raises(
        UserError, match=r"of 1 documents from .*a\.txt left .* set clean\.text_files to lines"
    ):
        run(tmp_path / "a.txt", tmp_path / "out")


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (
            ["short"] * 5,
            r"none of 5 .* most \(5\) were dropped by quality.min_words: .*change clean.quality",
        ),
        (
            [tiny_text()[3]] * 5,
            r"only 1 of 5 .* dropped by duplicates.exact: .*switch off clean.duplicates.exact",
        ),
        ([" ", "\n", "\t"], r"dropped by empty: their files hold no text"),
        (["a\x00" * 9] * 3, r"no document could be read from .* \(3 × binary, not text\): check the files"),
    ],
)
def test_when_too_little_is_left_the_reason_is_named(tmp_path: Path, texts: list[str], sentence: str):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text)
    with pytest.raises(UserError, match=sentence):
        run(folder, tmp_path / "out")


def test_a_missing_corpus_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path / "out")
