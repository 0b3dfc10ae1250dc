"""In = kept + dropped + skipped: each run of `clean` checks it itself, over all readers and passes."""

import csv
import gzip
import json
import logging
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from leanpipe.core.report import Silent
from leanpipe.corpus.clean import CleanConfig, CleanInputs, clean
from leanpipe.corpus.passes import per_document
from leanpipe.corpus.readers import jsonl
from tests.corpus.readers.test_readers_warc import GOOD, page, record
from tests.support.file_indexes import listed
from tests.support.tiny_models import tiny_text

SETTINGS = {"quality": {"enabled": False}, "repetition": {"enabled": False}, "execution": {"workers": 1}}


def run(corpus: Path, out: Path) -> dict:
    out.mkdir()
    listing = listed(corpus, out.parent / "listings").path
    return clean.function(CleanConfig.model_validate(SETTINGS), CleanInputs((listing,)), out, Silent())


def write_rows(folder: Path) -> int:
    """Rows of every kind of reader, good, doubled and bad; returns how many records that are, files passed over included."""
    folder.mkdir()
    texts = tiny_text()[:30]
    rows = [json.dumps({"text": text}) for text in texts]
    (folder / "a.jsonl").write_text("\n".join([*rows[:10], "{broken", '{"text": 3}', "", rows[0]]))  # 13
    (folder / "b.json.gz").write_bytes(gzip.compress(f"[{','.join([*rows[10:14], '{]}'])}]".encode()))  # 5
    with (folder / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts[14:18]), [5]])
        file.write('6,"open\n7,fine\n')  # 5 + 2
    column = pyarrow.array([*(text.encode() for text in texts[18:20]), None, b"\0" * 50])
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), folder / "d.parquet")  # 4
    request = record(b"request", b"GET / HTTP/1.1\r\n\r\n")
    pages = [page(f"<p>{text}".encode()) for text in texts[20:22]]
    (folder / "e.warc").write_bytes(request + pages[0] + b"rubbish\r\n" + GOOD + pages[1])  # 5
    mails = [f"From x\nSubject: s\n\n{text}\n\n" for text in texts[22:24]]
    (folder / "f.mbox").write_text("".join([*mails, "From y\nSubject: empty\n\n"]))  # 3
    (folder / "g.eml").write_text(f"Subject: mail\n\n{texts[24]}")
    (folder / "h.html").write_text(f"<html><p>{texts[25]}</html>")
    (folder / "i.txt").write_text(texts[26])
    (folder / "j.txt").write_bytes(b"")
    (folder / "k.csv").write_text("id,text\n")  # a header alone
    (folder / "l.jsonl.gz").write_bytes(gzip.compress(b'{"text": "cut"}\n' * 2)[:-5])  # 2, and the damage
    (folder / "m.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.txt").write_text("hidden")
    return 13 + 5 + 7 + 4 + 5 + 3 + 5 + 3 + 2


def test_every_record_of_every_reader_is_kept_dropped_or_skipped(tmp_path: Path, caplog):
    records = write_rows(tmp_path / "corpus")
    with caplog.at_level(logging.ERROR, logger="leanpipe"):
        summary = run(tmp_path / "corpus", tmp_path / "out")
    skipped = summary["files_or_lines_skipped"]
    assert summary["records_in"] == records
    assert records == summary["documents_kept"] + summary["documents_dropped"] + skipped
    assert summary["records_unaccounted"] == 0 and not caplog.records
    card = (tmp_path / "out" / "report" / "card.md").read_text()
    assert f"In = kept + dropped + skipped: {records} = {summary['documents_kept']} + " in card


def test_a_run_whose_reader_loses_rows_says_so_and_how_many(tmp_path: Path, caplog, monkeypatch):
    write_rows(tmp_path / "corpus")
    read = jsonl._Rows._piece

    def losing(self, text, position, careless):
        if self._source != "a.jsonl" or position not in (3, 4):
            return read(self, text, position, careless)
        return None

    monkeypatch.setattr(jsonl._Rows, "_piece", losing)
    with caplog.at_level(logging.ERROR, logger="leanpipe"):
        summary = run(tmp_path / "corpus", tmp_path / "out")
    assert summary["records_unaccounted"] == 2
    [said] = [record.getMessage() for record in caplog.records]
    assert "does not hold" in said and "so 2 are missing (a.jsonl: 2)" in said
    assert (
        "In = kept + dropped + skipped does not hold: 47 records"
        in (tmp_path / "out/report/card.md").read_text()
    )


@pytest.mark.parametrize(("times", "said"), [(0, "so 1 are missing"), (2, "so 1 are too many")])
def test_a_run_that_loses_or_doubles_a_document_after_reading_says_so(
    tmp_path: Path, caplog, monkeypatch, times: int, said: str
):
    write_rows(tmp_path / "corpus")
    read_file = per_document.read_file

    def losing(file, log, config):
        for document in read_file(file, log, config):
            yield from [document] * (times if document.source == "i.txt" else 1)

    monkeypatch.setattr(per_document, "read_file", losing)
    with caplog.at_level(logging.ERROR, logger="leanpipe"):
        summary = run(tmp_path / "corpus", tmp_path / "out")
    assert summary["records_unaccounted"] == 1
    assert said in caplog.text and "between reading and the account" in caplog.text
