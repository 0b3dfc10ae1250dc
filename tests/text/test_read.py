"""Every kind of file, whole and broken. Nothing here may raise: what cannot be read is listed."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from leanpipe.errors import UserError
from leanpipe.text.files import ReadLog, check_corpus, list_files
from leanpipe.text.read import read_files


def read(path: Path, **options) -> tuple[list[tuple[str, str]], ReadLog]:
    """(source, text) of each document, and the log."""
    log = ReadLog()
    documents = list(read_files(list_files([path], log), log, **options))
    assert log.bytes_read == log.bytes_total
    assert len({document.id for document in documents}) == len(documents)
    return [(document.source, document.text) for document in documents], log


def reasons(log: ReadLog) -> list[tuple[str, str]]:
    return [(skipped.source, skipped.reason) for skipped in log.skipped]


def test_every_kind_of_file(tmp_path: Path):
    rows = b'{"text": "one"}\n\n{"content": "two"}\n'
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / "b.md").write_text("# mark")
    (tmp_path / "c.HTM").write_text("<p>page</p>")
    (tmp_path / "d.jsonl").write_bytes(rows)
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(rows))
    (tmp_path / "f.jsonl.zst").write_bytes(zstandard.compress(rows))
    (tmp_path / "g.txt.gz").write_bytes(gzip.compress(b"squeezed"))
    (tmp_path / "h.md.zst").write_bytes(zstandard.compress(b"pressed"))
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2], "text": ["p", "q"]}), tmp_path / "i.parquet")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "j.txt").write_text("deep")
    documents, log = read(tmp_path)
    assert documents == [
        ("a.txt", "plain"),
        ("b.md", "# mark"),
        ("c.HTM", "<p>page</p>"),
        *(("d.jsonl", "one"), ("d.jsonl", "two")),
        *(("e.jsonl.gz", "one"), ("e.jsonl.gz", "two")),
        *(("f.jsonl.zst", "one"), ("f.jsonl.zst", "two")),
        ("g.txt.gz", "squeezed"),
        ("h.md.zst", "pressed"),
        *(("i.parquet", "p"), ("i.parquet", "q")),
        ("sub/j.txt", "deep"),
    ]
    assert log.skipped == [] and log.repaired == []


@pytest.mark.parametrize(
    ("data", "text", "repaired"),
    [
        ("\ufeffnaïve".encode(), "naïve", False),
        ("naïve".encode("utf-16"), "naïve", False),
        (b"\xfe\xff" + "naïve".encode("utf-16-be"), "naïve", False),
        (b"na\xefve \x93quoted\x94", "naïve “quoted”", True),
        ("naïve ".encode() + b"na\xefve", "naïve naïve", True),  # one bad byte spoils nothing else
        (b"\xff\xfea", "\ufffd", True),  # half a UTF-16 character
        (b"x", "x", False),
        (b"stray\x00 byte in a long enough text", "stray\x00 byte in a long enough text", False),
    ],
)
def test_encodings(tmp_path: Path, data: bytes, text: str, repaired: bool):
    (tmp_path / "a.txt").write_bytes(data)
    documents, log = read(tmp_path)
    assert documents == [("a.txt", text)]
    assert log.repaired == (["a.txt"] if repaired else [])


def test_much_latin_1_is_decoded_in_linear_time(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xe9 " * 1_000_000)
    assert read(tmp_path)[0][0][1] == "é " * 1_000_000


def test_html_says_its_charset(tmp_path: Path):
    page = '<html><head><meta charset="windows-1251"></head><body>Привет</body></html>'
    (tmp_path / "a.html").write_bytes(page.encode("cp1251"))
    assert "Привет" in read(tmp_path)[0][0][1]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"", "empty"),
        ("a.jsonl", b"\n\n", "empty"),
        ("a.txt", b"\x00" * 100, "binary, not text"),
        ("a.txt", bytes(range(256)), "binary, not text"),
        ("a.jsonl.gz", b"not gzip at all", "damaged archive"),
        ("a.txt.gz", gzip.compress(b"whole" * 100, mtime=0)[:-9], "damaged archive"),
        ("a.txt.zst", b"not zstd at all", "damaged archive"),
        ("a.parquet", b"not parquet", "damaged Parquet file"),
        ("a.pdf", b"%PDF", "unknown kind of file"),
        (".hidden.txt", b"secret", "hidden"),
        ("noname", b"text", "unknown kind of file"),
    ],
)
def test_what_cannot_be_read_is_listed(tmp_path: Path, name: str, data: bytes, reason: str):
    (tmp_path / name).write_bytes(data)
    documents, log = read(tmp_path)
    assert documents == []
    assert reasons(log) == [(name, reason)]


def test_bad_lines_are_listed_and_the_others_read(tmp_path: Path):
    lines = [
        b'{"text": "good"}',
        b"{broken",
        b'["a list"]',
        b'{"text": 3}',
        b'{"other": "x"}',
        b'{"text": "caf\xe9"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*lines, b"[" * 100_000]))
    documents, log = read(tmp_path)
    assert [text for _, text in documents] == ["good", "café"]
    assert reasons(log) == [
        ("a.jsonl:2", "line is not JSON"),
        ("a.jsonl:3", "no text column"),
        ("a.jsonl:4", "no text column"),
        ("a.jsonl:5", "no text column"),
        ("a.jsonl:7", "line is not JSON"),
    ]
    assert log.repaired == ["a.jsonl:6"]


def test_a_truncated_archive_gives_what_comes_before_the_break(tmp_path: Path):
    rows = "\n".join(json.dumps({"text": f"row {number * 7919 % 10_007}"}) for number in range(20_000))
    packed = gzip.compress(rows.encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    documents, log = read(tmp_path)
    assert 0 < len(documents) < 20_000
    assert reasons(log)[-1] == ("a.jsonl.gz", "damaged archive")


def test_parquet_without_text_column_and_with_nulls(tmp_path: Path):
    pyarrow.parquet.write_table(pyarrow.table({"n": [1], "m": ["x"]}), tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", None]}), tmp_path / "b.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "c.parquet")
    documents, log = read(tmp_path)
    assert documents == [("b.parquet", "x")]
    assert reasons(log) == [
        ("a.parquet", "no text column"),
        ("b.parquet:2", "no text in the row"),
        ("c.parquet", "no text column"),
    ]
    assert "it has n, m" in log.skipped[0].detail
    assert [text for _, text in read(tmp_path, columns=["m"])[0]] == ["x"]


def test_a_json_lines_file_in_utf_16(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "naïve"}\n{"text": "two"}\n'.encode("utf-16"))
    assert [text for _, text in read(tmp_path)[0]] == ["naïve", "two"]


def test_loops_of_links_end_and_linked_folders_are_read_once(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.txt").write_text("far")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("near")
    (corpus / "again").symlink_to(elsewhere)
    (corpus / "linked").symlink_to(elsewhere)
    (corpus / "loop").symlink_to(corpus)
    (corpus / "nothing.txt").symlink_to(tmp_path / "missing")
    (corpus / "self.txt").symlink_to(corpus / "self.txt")
    documents, log = read(corpus)
    assert documents == [("a.txt", "near"), ("again/far.txt", "far")]
    assert reasons(log) == [
        ("linked", "link to a folder already read"),
        ("loop", "link to a folder already read"),
        ("nothing.txt", "broken link or special file"),
        ("self.txt", "broken link or special file"),
    ]


def test_a_line_can_be_a_document(tmp_path: Path):
    (tmp_path / "a.txt").write_text("first\n\nsecond\n")
    (tmp_path / "b.html").write_text("<p>one\n<p>page")
    documents, _ = read(tmp_path, by_line=True)
    assert documents == [("a.txt", "first"), ("a.txt", "second"), ("b.html", "<p>one\n<p>page")]


def test_ids_depend_on_place_and_not_on_the_folder(tmp_path: Path):
    ids = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("same")
        ids.append(next(read_files(list_files([tmp_path / name], ReadLog()), ReadLog())).id)
    both = list(read_files(list_files([tmp_path / "x", tmp_path / "y"], ReadLog()), ReadLog()))
    assert ids[0] == ids[1] == both[0].id != both[1].id


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("missing", None, "does not exist"),
        ("a.pdf", b"%PDF", "unknown kind"),
        ("a.txt", b"", "is empty"),
    ],
)
def test_preflight_refuses_a_single_file(tmp_path: Path, name: str, data: bytes | None, sentence: str):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        check_corpus([path])


def test_preflight_refuses_folders_without_text(tmp_path: Path):
    with pytest.raises(UserError, match="has no file with text in it: put files there, any of"):
        check_corpus([tmp_path])
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.txt").write_bytes(b"")
    with pytest.raises(UserError, match=r"\(1 others were passed over\)"):
        check_corpus([tmp_path])
    with pytest.raises(UserError, match="no corpus was given"):
        check_corpus([])
    (tmp_path / "c.txt").write_bytes(b"x")
    check_corpus([tmp_path, tmp_path / "c.txt"])
