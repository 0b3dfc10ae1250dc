"""The whole stage, on real text and on hopeless text."""

import logging
from pathlib import Path

import pandas
import pytest
from pydantic import ValidationError

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import content_digest, digest_files
from leanpipe.corpus.clean import GROUPS, CleanConfig, CleanInputs, clean
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.tables import split_files
from tests.support.file_indexes import listed
from tests.support.tiny_models import tiny_text

OFF = {"quality": {"enabled": False}, "repetition": {"enabled": False}}


def run(
    corpus: Path | tuple[Path, ...],
    out: Path,
    base: Path | None = None,
    evaluations: tuple[Path, ...] = (),
    **config,
) -> tuple[dict, pandas.DataFrame, pandas.DataFrame]:
    """(summary, the account, what is kept with the split of each)."""
    out.mkdir()
    corpora = corpus if isinstance(corpus, tuple) else (corpus,)
    listings = tuple(listed(one, out.parent / "listings", number).path for number, one in enumerate(corpora))
    # The help topics quote each other, so of what is held out much would go elsewhere.
    few = {"execution": {"workers": 1}, "split": {"min_test_documents": 0}}
    settings = CleanConfig.model_validate(few | config)
    summary = clean.function(settings, CleanInputs(listings, base, evaluations), out, Silent())
    account = pandas.concat([pandas.read_parquet(path) for path in sorted((out / "account").iterdir())])
    kept = pandas.concat([
        pandas.read_parquet(path).assign(split=split) for split in SPLITS for path in split_files(out, split)
    ])  # fmt: skip
    return summary, account, kept


def rules(account: pandas.DataFrame) -> dict[str, str]:
    """The rule by which each document was dropped, by its source; nothing for those that were kept."""
    return dict(zip(account.source, account.rule, strict=True))


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
    summary, account, kept = run(corpus, tmp_path / "out")
    dropped = account[account.outcome == "dropped"]
    assert summary["documents_in"] == len(tiny_text()) + 4 == len(account) == len(kept) + len(dropped)
    assert summary["documents_kept"] == len(kept) and summary["documents_dropped"] == len(dropped)
    assert sum(summary[f"dropped_{group}"] for group in GROUPS) == len(dropped)
    assert summary["characters_kept"] == kept.text.str.len().sum()
    assert summary["files_or_lines_skipped"] == 1
    assert account.id.is_unique and set(kept.id) == set(account[account.outcome == "kept"].id)
    assert dict(zip(kept.id, kept.split, strict=True)) == dict(
        zip(account[account.split != ""].id, account[account.split != ""].split, strict=True)
    )
    found = rules(account)
    assert found["x-near.txt"] == "duplicates.near"
    assert found["x-short.txt"] == "quality.min_words"
    assert found["x-blank.txt"] == "empty"
    short = dropped.set_index("source").loc["x-short.txt"]
    assert (short.value, short.detail) == (2, "Too short.")
    near = dropped.set_index("source").loc["x-near.txt"]
    assert near.value >= 0.8 and near.detail.removeprefix("of ") in set(kept.id)


def test_mojibake_is_repaired_on_the_way(corpus: Path, tmp_path: Path):
    _, _, kept = run(corpus, tmp_path / "out", duplicates={"near": False})
    assert kept.set_index("source").text["x-mojibake.txt"].startswith("Café “naïve")


def test_the_report_can_be_looked_at(corpus: Path, tmp_path: Path):
    run(corpus, tmp_path / "out")
    report = tmp_path / "out/report"
    assert {"dropped.png", "lengths.png", "languages.png", "card.md", "dropped.csv"} <= {
        path.name for path in report.iterdir()
    }
    assert "duplicates.near" in (report / "card.md").read_text()
    assert not (tmp_path / "out/.work").exists()


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
    skipped = pandas.read_parquet(tmp_path / "out/skipped.parquet")
    assert list(skipped.source) == ["x-binary.txt"]


def test_languages(corpus: Path, tmp_path: Path):
    german = (
        "Der Imker nimmt im Sommer einen Teil des Honigs und gibt den Tieren dafür Zucker für den Winter. "
    )
    (corpus / "y-german.txt").write_text(german * 4)
    summary, account, _ = run(corpus, tmp_path / "out", languages=("en",), **OFF)
    assert rules(account)["y-german.txt"] == "languages"
    assert summary["dropped_languages"] == (account.rule == "languages").sum()
    with pytest.raises(ValidationError, match="unknown language codes: klingon"):
        CleanConfig(languages=("en", "klingon"))


def test_lines_and_columns_are_read_as_configured(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n".join(" ".join(text.split()) for text in tiny_text()[:40]))
    (tmp_path / "b.jsonl").write_text('{"body": "Too short."}\n')
    corpora = (tmp_path / "a.txt", tmp_path / "b.jsonl")
    summary, account, _ = run(
        corpora, tmp_path / "out", read={"text_files": "lines", "text_columns": ("body",)}
    )
    assert summary["documents_in"] == 41
    assert any(source.startswith("b.jsonl") for source in account.source)


def test_personal_data_is_replaced_and_counted(corpus: Path, tmp_path: Path):
    (corpus / "y-mail.txt").write_text(tiny_text()[5] + "\n\nWrite to jane.doe@leanpipe.org today.")
    summary, account, kept = run(corpus, tmp_path / "out", duplicates={"near": False})
    assert "<EMAIL>" in kept.set_index("source").text["y-mail.txt"]
    assert account.set_index("source").redactions["y-mail.txt"] == summary["redactions"] == 1
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"jane.doe" not in everything


def test_evaluation_sets_are_kept_out(corpus: Path, tmp_path: Path):
    passage = " ".join(tiny_text()[7].split()[:60])
    (tmp_path / "exam.jsonl").write_text('{"question": "' + passage.replace("\\", "").replace('"', "") + '"}')
    _, account, _ = run(corpus, tmp_path / "out", evaluations=(tmp_path / "exam.jsonl",))
    row = account.set_index("source").loc["07.txt"]
    assert row.rule == "decontaminate.max_overlap" and "exam" in row.detail
    assert " ".join(tiny_text()[7].split()[:8]) in " ".join(row.detail.split())


def test_what_shares_passages_with_held_out_documents_is_not_learnt_from(tmp_path: Path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(tiny_text()):
        (folder / f"{number:02}.txt").write_text(text)
    _, _, kept = run(folder, tmp_path / "before", split={"test": 0.3})
    held_out = kept[kept.split == "test"].iloc[0].text
    for number, text in enumerate(tiny_text()[:12]):
        (folder / f"y-{number}.txt").write_text(f"{held_out[: len(held_out) // 2]}\n\n{text}")
    _, account, kept = run(folder, tmp_path / "out", split={"test": 0.3}, **OFF)
    ours = account[account.source.str.startswith("y-")]
    assert not len(kept[kept.source.str.startswith("y-") & (kept.split == "train")])
    assert (ours.rule == "decontaminate.max_overlap").any()
    _, account, _ = run(
        folder, tmp_path / "off", split={"test": 0.3}, decontaminate={"held_out": False}, **OFF
    )
    assert "decontaminate.max_overlap" not in set(account.rule)


def test_paragraphs_that_were_there_before_are_removed(tmp_path: Path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    notice = (
        "This notice stands at the end of every page that we have ever put on the net, and nobody reads it."
    )
    for number, text in enumerate(tiny_text()[:20]):
        (folder / f"{number:02}.txt").write_text(f"{text.strip()}\n\n{notice}")
    (folder / "z.txt").write_text(notice)
    off = {"enabled": False}
    _, account, kept = run(
        folder, tmp_path / "out", duplicates={"paragraphs": True}, quality=off, repetition=off
    )
    assert [source for source, text in zip(kept.source, kept.text, strict=True) if notice in text] == [
        "00.txt"
    ]
    assert rules(account)["z.txt"] == "duplicates.paragraphs"


def test_a_whole_file_is_one_document_by_default(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n".join(tiny_text()))
    with pytest.raises(
        UserError, match=r"of 1 documents from .*a\.txt left .* set clean\.read\.text_files to lines"
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
        (
            ["\x01\x02\x03" * 9] * 3,
            r"no document could be read from .* \(3 × binary, not text\): check the files",
        ),
    ],
)
def test_when_too_little_is_left_the_reason_is_named(tmp_path: Path, texts: list[str], sentence: str):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text)
    with pytest.raises(UserError, match=sentence):
        run(folder, tmp_path / "out")


@pytest.mark.parametrize("times", [100_000, pytest.param(1_000_000, marks=pytest.mark.chaos)])
def test_one_document_very_many_times(tmp_path: Path, times: int):
    lines = tmp_path / "many.jsonl"
    line = '{"text": "the same and nothing but the same words of this one line again"}\n'
    lines.write_text(line * times + '{"text": "another"}\n{"text": "a third"}\n{"text": "a fourth one"}\n')
    summary, account, kept = run(lines, tmp_path / "out", split={"validation": 0.3, "test": 0.3}, **OFF)
    assert summary["documents_in"] == times + 3 and len(kept) == 4
    assert (account.rule == "duplicates.exact").sum() == times - 1
