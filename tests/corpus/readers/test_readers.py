"""What all formats share: compression, broken files, limits. Nothing here may raise: what cannot be read is listed."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from leanpipe.corpus.document import document_id
from leanpipe.corpus.readers import ReadConfig, read_file
from leanpipe.corpus.sources.file_index import index_corpus
from leanpipe.corpus.sources.read_log import ReadLog
from tests.corpus.reading import read, read_one, reasons

PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
LONG_WINDOW = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
MAIL = b"Subject: hello\n\nbody\n"
WARC = b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\npage\r\n\r\n"
FORMATS = {
    ".txt": (b"plain", ["plain"]),
    ".md": (b"# mark", ["# mark"]),
    ".html": (b"<p>page</p>", ["<p>page</p>"]),
    ".HTM": (b"<p>page</p>", ["<p>page</p>"]),
    ".jsonl": (b'{"text": "one"}\n\n{"content": "two"}\n', ["one", "two"]),
    ".csv": (b'id,text\n1,"one, two"\n2,three\n', ["one, two", "three"]),
    ".tsv": (b"id\ttext\n1\tone, two\n", ["one, two"]),
    ".eml": (MAIL, ["hello\n\nbody\n"]),
    ".mbox": (b"From a@b\n" + MAIL + b"\nFrom c@d\n" + MAIL, ["hello\n\nbody\n\n", "hello\n\nbody\n"]),
    ".warc": (WARC * 2, ["page", "page"]),
}


@pytest.mark.parametrize("packing", ["", *PACKED])
@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_plain_and_packed(tmp_path: Path, ending: str, packing: str):
    data, texts = FORMATS[ending]
    (tmp_path / f"a{ending}{packing}").write_bytes(PACKED[packing](data) if packing else data)
    documents, log = read(tmp_path)
    assert [document.text for document in documents] == texts
    assert log.skipped == [] and log.repaired == [] and not log.skipped_by_reason
    assert all(document.html is (ending in (".html", ".HTM")) for document in documents)


NAMELESS = {
    "text": (b"plain", ["plain"]),
    "html": (
        b"<!-- saved -->\n<!DOCTYPE html>\n<p>page</p>",
        ["<!-- saved -->\n<!DOCTYPE html>\n<p>page</p>"],
    ),
    "jsonl": FORMATS[".jsonl"],
    "json": (b'[\n {"text": "one"},\n {"text": "two"}\n]', ["one", "two"]),
    "csv": FORMATS[".csv"],
    "tsv": FORMATS[".tsv"],
    "mail": (b"From: a@b\nDate: today\n" + MAIL, ["hello\n\nbody\n"]),
    "mbox": FORMATS[".mbox"],
    "warc": FORMATS[".warc"],
    "utf-16": ('{"text": "wide"}\n'.encode("utf-16"), ["wide"]),
}


@pytest.mark.parametrize("packing", ["", *PACKED])
@pytest.mark.parametrize("kind", NAMELESS)
def test_a_name_that_says_nothing_leaves_it_to_the_content(tmp_path: Path, kind: str, packing: str):
    data, texts = NAMELESS[kind]
    data = PACKED[packing](data) if packing else data
    for name in ("part-00000", f"1.{packing}", "1732.M1P2.host:2,S", f"corpus.001{packing}", "x.dat"):
        assert read_one(tmp_path, name, data) == (texts, [])
    if kind == "html":
        assert all(document.html for document in read(tmp_path)[0])


def test_a_table_whose_name_says_nothing(tmp_path: Path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two"]}), tmp_path / "part-0")
    assert [document.text for document in read(tmp_path)[0]] == ["one", "two"]


@pytest.mark.parametrize("packing", PACKED)
def test_archives_one_after_the_other_are_one(tmp_path: Path, packing: str):
    pack = PACKED[packing]
    data = pack(b'{"text": "one"}\n{"te') + pack(b'xt": "two"}\n')
    assert read_one(tmp_path, f"a.jsonl{packing}", data) == (["one", "two"], [])


@pytest.mark.parametrize("packing", PACKED)
def test_a_file_is_packed_as_its_bytes_say_whatever_its_name_says(tmp_path: Path, packing: str):
    rows = b'{"text": "one"}\n{"text": "two"}\n'
    for name, data in (
        (f"a.jsonl{packing}", rows),  # unpacked on the way
        ("b.jsonl", PACKED[packing](rows)),  # not unpacked on the way
        ("c.jsonl.gz", PACKED[packing](rows)),
        (f"d.jsonl{packing}", PACKED[packing](PACKED[packing](rows))),
    ):
        assert read_one(tmp_path, name, data) == (["one", "two"], [])


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        (
            "a.jsonl.zst",
            lambda data: (
                zstandard.ZstdCompressor(compression_params=LONG_WINDOW)
                .stream_reader(io.BytesIO(data))
                .read()
            ),
        ),
        (
            "a.jsonl.xz",
            lambda data: lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**28}]),
        ),
    ],
)
def test_an_archive_that_needs_much_memory_says_so(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]):
    assert read_one(tmp_path, name, pack(b'{"text": "one"}\n')) == (
        [],
        [(name, "archive needs too much memory")],
    )


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("cut", [1, 9, 3000])
def test_a_truncated_archive_gives_what_comes_before_the_break(tmp_path: Path, packing: str, cut: int):
    rows = [f"row {number * 7919 % 10_007} {number * 104_729 % 65_537}" for number in range(3000)]
    data = PACKED[packing]("\n".join(json.dumps({"text": row}) for row in rows).encode())
    texts, skipped = read_one(tmp_path, f"a.jsonl{packing}", data[:-cut])
    assert texts == rows[: len(texts)]
    assert skipped[-1] == (f"a.jsonl{packing}", "damaged archive")
    if packing == ".gz":  # the others unpack by blocks of 128 KB and more
        assert len(texts) > 1500


def test_rubbish_after_an_archive_is_listed(tmp_path: Path):
    rows = [f"row {number}" for number in range(1000)]
    data = gzip.compress("\n".join(json.dumps({"text": row}) for row in rows).encode()) + b"rubbish"
    texts, skipped = read_one(tmp_path, "a.jsonl.gz", data)
    assert texts == rows[: len(texts)] and len(texts) > 950  # Arrow keeps the last kilobyte
    assert skipped[-1] == ("a.jsonl.gz", "damaged archive")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        *((f"a{ending}", b"", "empty") for ending in FORMATS),
        ("a.jsonl", b"\n\n", "empty"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "empty"),
        *(
            (f"a{one}", b"\x00" * 100, "binary, not text")
            for one in (".txt", ".html", ".jsonl", ".csv", ".eml")
        ),
        ("a.txt", bytes(range(256)), "binary, not text"),
        *((f"a.jsonl{packing}", b"\0no archive\0\1\2\3", "damaged archive") for packing in PACKED),
        ("a.parquet", b"not parquet", "damaged Parquet file"),
        ("a.parquet", b"PAR1" * 10, "damaged Parquet file"),
        ("a.warc", b"no archive of the web\n" * 20, "damaged web archive"),
        ("a.mbox", b"no mailbox\n", "no mailbox"),
        ("a.eml", b"Subject: only\n\n", "no text in the mail"),
        ("a.csv", b"id,name\n1,x\n", "no text column"),
        ("a.pdf", b"%PDF", "unknown kind of file"),
        ("noname", b"\x7fELF\0\0\0\0", "unknown kind of file"),
        ("noname", b"", "empty"),
        ("a.py", b"text", "unknown kind of file"),
        ("a.parquet.gz", b"packed twice", "unknown kind of file"),
    ],
)
def test_what_cannot_be_read_is_listed(tmp_path: Path, name: str, data: bytes, reason: str):
    assert read_one(tmp_path, name, data) == ([], [(name, reason)])


@pytest.mark.parametrize("ending", [*FORMATS, ".parquet", *(f".txt{packing}" for packing in PACKED)])
def test_one_byte(tmp_path: Path, ending: str):
    for byte in (b"x", b"\n", b"\0", b'"', b"\xff"):
        texts, skipped = read_one(tmp_path, f"a{ending}", byte)
        assert len(texts) <= 1 and all(source.startswith("a.") for source, _ in skipped)


def test_ids_depend_on_place_and_not_on_the_folder(tmp_path: Path):
    def ids(folder: str, corpus: int) -> list[str]:
        files = index_corpus(str(tmp_path / folder), ReadLog(), corpus=corpus).files
        return [document.id for file in files for document in read_file(file, ReadLog(), ReadConfig())]

    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("same")
        (tmp_path / folder / "b.jsonl").write_text('{"text": "0"}\n\n{"text": "2"}\n')
    assert ids("x", 0) == ids("y", 0) != ids("y", 1)
    assert ids("x", 0) == [
        document_id(0, "a.txt", 0),
        document_id(0, "b.jsonl", 0),
        document_id(0, "b.jsonl", 2),
    ]


def test_a_document_says_where_it_stands(tmp_path: Path):
    (tmp_path / "a.txt").write_text("first\n\nthird\n")
    (tmp_path / "b.jsonl").write_text('{"text": "0"}\n\n{"text": "2"}\n')
    assert [document.source for document in read(tmp_path)[0]] == ["a.txt", "b.jsonl#0", "b.jsonl#2"]
    lines, _ = read(tmp_path / "a.txt", text_files="lines")
    assert [(line.source, line.text) for line in lines] == [("a.txt#0", "first"), ("a.txt#2", "third")]


def test_lines_are_only_of_text_files(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"first\r\n\r\n \nlast")
    (tmp_path / "b.html").write_text("<p>one\n<p>page")
    documents, _ = read(tmp_path, text_files="lines")
    assert [document.text for document in documents] == ["first", "last", "<p>one\n<p>page"]


LONG = b"x" * 2000
TOO_LONG = "longer than read.max_document_bytes"


@pytest.mark.parametrize("packing", ["", *PACKED])
@pytest.mark.parametrize(
    ("name", "data", "texts", "skipped"),
    [
        ("a.txt", LONG, [], [""]),
        ("a.txt", b"x" * 1024, ["x" * 1024], []),
        ("a.html", LONG, [], [""]),
        ("a.eml", MAIL + LONG, [], [""]),
        ("a.jsonl", b'{"text": "1"}\n{"text": "' + LONG + b'"}\n{"text": "3"}\n', ["1", "3"], ["#1"]),
        ("a.jsonl", LONG, [], ["#0"]),
        ("a.csv", b"text\n1\n" + LONG + b"\n3\n", ["1", "3"], ["#1"]),
        ("a.csv", b'text\n1\n"' + b"x\n" * 1000 + b'"\n3\n', ["1"], ["#1"]),
        ("a.mbox", b"From x\n" + MAIL + b"\nFrom x\n" + LONG + b"\n\nFrom x\n" + MAIL, 2, ["#1"]),
        ("a.warc", WARC + WARC.replace(b"4\r\n", b"2000\r\n").replace(b"page", LONG) + WARC, 2, ["#1"]),
    ],
)
def test_what_is_too_long_is_passed_over_and_the_rest_read(
    tmp_path: Path, name: str, data: bytes, texts: list[str] | int, skipped: list[str], packing: str
):
    name += packing
    found, noted = read_one(
        tmp_path, name, PACKED[packing](data) if packing else data, max_document_bytes=1024
    )
    too_long = [source for source, reason in noted if reason == TOO_LONG]
    assert too_long == [f"{name}{position}" for position in skipped]
    if isinstance(texts, int):
        assert len(found) == texts
    else:
        assert found[: len(texts)] == texts


def test_a_long_line_is_passed_over_where_lines_are_documents(tmp_path: Path):
    data = b"one\n" + LONG + b"\nthree\n"
    (tmp_path / "a.txt").write_bytes(data)
    documents, log = read(tmp_path, text_files="lines", max_document_bytes=1024)
    assert [document.text for document in documents] == ["one", "three"] and reasons(log) == [
        ("a.txt#1", TOO_LONG)
    ]
    _, log = read(tmp_path, max_document_bytes=1024)
    assert "read.text_files to lines" in log.skipped[0].detail


def test_a_file_may_unfold_only_so_far(tmp_path: Path):
    rows = (b'{"text": "' + b"the same again " * 20 + b'"}\n') * 20_000
    packed = gzip.compress(rows)
    ratio = len(rows) / len(packed)
    expands = [("a.jsonl.gz", "expands more than read.max_expansion times")]
    few, skipped = read_one(
        tmp_path, "a.jsonl.gz", packed, max_expansion=int(ratio / 4), max_document_bytes=1024
    )
    assert skipped == expands and 0 < len(few) < 10_000
    every, skipped = read_one(tmp_path, "a.jsonl.gz", packed, max_expansion=int(ratio * 2))
    assert skipped == [] and len(every) == 20_000


def test_the_log_stays_small_when_every_line_is_bad(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b"{\n" * 5000 + b'{"text": 3}\n' * 7)
    (tmp_path / "b.txt").write_bytes(b"a caf\xe9 or two\n" * 5000)
    documents, log = read(tmp_path, text_files="lines")
    assert log.skipped_by_reason == {"line is not JSON": 5000, "no text column": 7}
    assert len(log.skipped) == 100 + 7 + 1
    assert log.skipped[-1] == ("a.jsonl", "line is not JSON", "and 4900 more in this file")
    assert len(documents) == 5000 == log.counters["documents repaired"] and len(log.repaired) == 100


MEMORY = """
import resource, sys, time
from leanpipe.corpus.sources.file_index import index_corpus
from leanpipe.corpus.readers import ReadConfig, read_file
from leanpipe.corpus.sources.read_log import ReadLog

def read(path, **settings):
    log = ReadLog()
    [file] = index_corpus(path, log).files
    count = sum(1 for _ in read_file(file, log, ReadConfig(**settings)))
    return f"{count} {[one.reason for one in log.skipped]}"

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

for path in sys.argv[1:3]:
    read(path)  # loads all libraries
before = peak()
for path in sys.argv[3:]:
    print(read(path, max_document_bytes=4 * 2**20, max_expansion=100_000))
print(peak() - before)
"""


def zeros(path: Path, megabytes: int, *parts: bytes) -> Path:
    """A file of `parts`, with that many megabytes of the letter 0 before the second."""
    with path.open("wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as archive:
        archive.write(parts[0])
        for _ in range(megabytes):
            archive.write(b"0" * 1_000_000)
        archive.write(parts[1])
    return path


def test_memory_is_bounded_whatever_a_file_unfolds_to(tmp_path: Path):
    """Lines of 100 MB, a mail and a page of as much, and a table of 100 MB, each read in less than 50 MB."""
    small, table = tmp_path / "small.parquet", tmp_path / "table.parquet"
    rows = [f"{number} " + "text " * 2000 for number in range(10_000)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": rows}), table, row_group_size=10_000, compression="zstd"
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x"]}), small)
    bombs = [
        zeros(tmp_path / "a.jsonl.zst", 100, b'{"text": "', b'"}\n{"text": "after"}\n'),
        zeros(tmp_path / "a.csv.zst", 100, b"text\n", b"\nafter\n"),
        zeros(tmp_path / "a.html.zst", 100, b"<p>", b"</p>"),
        zeros(tmp_path / "a.mbox.zst", 100, b"From x\n\n", b"\n\nFrom x\n\nafter\n"),
    ]
    command: list[str | Path] = [
        sys.executable,
        "-c",
        MEMORY,
        small,
        zeros(tmp_path / "w.jsonl.zst", 0, b"", b'{"text": ""}'),
        *bombs,
        table,
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert output[:-1] == [*(f"1 ['{TOO_LONG}']",) * 2, f"0 ['{TOO_LONG}']", f"1 ['{TOO_LONG}']", "10000 []"]
    assert int(output[-1]) < 50


@pytest.mark.parametrize(
    ("field", "value"), [("text_columns", ()), ("max_document_bytes", 10), ("max_expansion", 0)]
)
def test_settings_out_of_bounds_are_refused(field: str, value: object):
    with pytest.raises(ValueError, match=field):
        ReadConfig(**{field: value})
