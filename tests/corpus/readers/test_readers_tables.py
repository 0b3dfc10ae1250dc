"""JSON lines, CSV and Parquet, well-formed and not."""

import json
import os
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from leanpipe.corpus.readers.encodings import decode
from tests.corpus.reading import read, read_one


def test_bad_lines_are_listed_and_the_others_read(tmp_path: Path):
    lines = [
        b'{"text": "good"}',
        b"{broken",
        b'["a list"]',
        b'{"text": 3}',
        b'{"other": "x"}',
        b'{"text": "caf\xe9"}',
        b"[" * 100_000,
        b'{"text": "deep", "other": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"text": NaN, "content": "x"}',
        b'{"n": NaN, "text": "not a number"}',
        b'{"text": "half a pair \\ud83d of \\ud83d\\ude00"}',
    ]
    texts, skipped = read_one(tmp_path, "a.jsonl", b"\n".join(lines))
    assert texts == ["good", "café", "x", "not a number", "half a pair \ufffd of 😀"]
    assert skipped == [
        ("a.jsonl#1", "line is not JSON"),
        ("a.jsonl#2", "no text column"),
        ("a.jsonl#3", "no text column"),
        ("a.jsonl#4", "no text column"),
        ("a.jsonl#6", "line is not JSON"),
        ("a.jsonl#7", "line is not JSON"),
    ]
    assert read(tmp_path)[1].repaired == ["a.jsonl#5", "a.jsonl#8", "a.jsonl#9", "a.jsonl#10"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_the_first_text_column_that_holds_text_counts(tmp_path: Path, name: str):
    rows = {"body": ["b"], "content": ["c"], "text": ["t"]}
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / name)
    elif name == "a.csv":
        (tmp_path / name).write_text("body,content,text\nb,c,t\n")
    else:
        (tmp_path / name).write_text('{"body": "b", "content": "c", "text": "t"}\n')
    for columns, expected in [
        (("text", "content"), "t"),
        (("content", "text"), "c"),
        (("nothing", "body"), "b"),
    ]:
        assert [one.text for one in read(tmp_path, text_columns=columns)[0]] == [expected]
    _, log = read(tmp_path, text_columns=("nothing",))
    assert "nothing" in log.skipped[0].detail


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_of_each_row_the_first_text_column_that_holds_text_counts(tmp_path: Path, name: str):
    cells = [("", "full"), (" \n", "wide"), ("first", "second"), ("", "")]
    rows = [{"text": text, "content": content} for text, content in cells]
    if not name.endswith(".csv"):
        rows.append({"text": None, "content": "beside null"})
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    elif name == "a.csv":
        lines = [f'"{text}",{content}' for text, content in cells]
        (tmp_path / name).write_text("\n".join(["text,content", *lines]))
    else:
        lines = [json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) if name == "a.jsonl" else json.dumps(rows))
    documents, log = read(tmp_path)
    assert [one.text for one in documents] == ["full", "wide", "first", "", "beside null"][: len(rows)]
    assert not log.skipped


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"text\none\ntwo\n", ["one", "two"]),
        (b"\xef\xbb\xbftext,n\r\none,1\r\n", ["one"]),
        (b"n;text\n1;one, two\n", ["one, two"]),
        (b"n|text\n1|one, two; three\n", ["one, two; three"]),
        (b'"n","text"\n1,"he said ""no"""\n', ['he said "no"']),
        (b'n, text \n1,"two\r\nlines"\n\n2,x\n', ["two\r\nlines", "x"]),
        (b"n,text\n1,\n2,x", ["", "x"]),
        (b'n,text\n1,"' + b"y" * 200_000 + b'"\n', ["y" * 200_000]),  # Python's csv stops at 131,072
    ],
)
def test_csv_as_programs_write_it(tmp_path: Path, data: bytes, texts: list[str]):
    assert read_one(tmp_path, "a.csv", data) == (texts, [])


def test_broken_rows_are_listed_and_the_others_read(tmp_path: Path):
    rows = [
        b"n,text",
        b"0,good",
        b"1,a comma, unquoted",
        b"2",
        b'3,"quoted" and not',
        b"4,fine",
        b"5,nul \0 byte",
    ]
    texts, skipped = read_one(tmp_path, "a.csv", b"\n".join(rows))
    assert texts == ["good", "fine", "nul \0 byte"]
    assert skipped == [("a.csv#1", "broken row"), ("a.csv#2", "broken row"), ("a.csv#3", "broken row")]


def test_a_quote_that_never_closes_costs_no_more_than_one_document_may_have(tmp_path: Path):
    lost = b"".join(b"%d,row\n" % number for number in range(200))  # 1,490 bytes
    texts, skipped = read_one(tmp_path, "a.csv", b'n,text\n0,"open\n' + lost * 3, max_document_bytes=1024)
    assert skipped == [("a.csv#0", "longer than read.max_document_bytes")]
    assert len(texts) > 400
    texts, skipped = read_one(tmp_path, "a.csv", b'n,text\n0,good\n1,"open until the end\n2,x\n')
    assert (texts, skipped) == (["good", "x"], [("a.csv#1", "broken row")])


@pytest.mark.parametrize(
    ("stray", "lost"),
    [
        ({20: b'20\t"open'}, [20]),
        ({20: b'20\t"open', 40: b'40\t"Yes," she said'}, [20, 40]),
        ({20: b'20\t"open', 40: b'40\tthree inches 3"'}, [20]),  # closed there by accident
        ({20: b'20\t"open', 21: b'21\t"open'}, [20, 21]),
        ({58: b'58\t"a', 59: b'"b'}, [58, 59]),
    ],
)
@pytest.mark.parametrize("delimiter", [b"\t", b","])
def test_a_stray_quote_costs_the_line_where_it_is(
    tmp_path: Path, stray: dict[int, bytes], lost: list[int], delimiter: bytes
):
    lines = [b"id\ttext\tn", *(stray.get(row, b"%d\trow" % row) + b"\t1" for row in range(60))]
    data = b"\n".join(lines).replace(b"Yes,", b"Yes").replace(b"\t", delimiter)
    texts, skipped = read_one(tmp_path, "a.csv", data)
    assert len(texts) == 60 - len(lost)
    assert skipped == [(f"a.csv#{row}", "broken row") for row in lost]


def test_quotes_that_never_close_cost_linear_time(tmp_path: Path, monkeypatch):
    """Each line closes the quote of the one before and opens another: every row might be all the rest of the file."""
    decoded: list[int] = []

    def counting(line: bytes, **options):
        decoded.append(len(line))
        return decode(line, **options)

    monkeypatch.setattr("leanpipe.corpus.readers.csv.decode", counting)
    rows = b'x","y\n' * 40_000
    texts, skipped = read_one(tmp_path, "a.csv", b"n,text\n" + rows)
    assert not texts and skipped[-1][1] == "broken row"
    assert sum(decoded) < 12 * len(rows) + 2 * 2**20


def test_quotes_escaped_by_backslashes_and_what_excel_is_told(tmp_path: Path):
    data = b'sep=;\r\nid;text\r\n1;"he said \\"no\\" twice"\r\n2;"plain"\r\n'
    assert read_one(tmp_path, "a.csv", data) == (['he said "no" twice', "plain"], [])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-8-sig"])
def test_tables_in_other_encodings(tmp_path: Path, encoding: str):
    text = "Größe, Füße und Käse für Bärbel, übrig blieb höchstens das Öl der Mühle"
    lines = [f"{number};{text}" for number in range(20)]
    texts, skipped = read_one(tmp_path, "a.csv", "\r\n".join(["n;text", *lines]).encode(encoding))
    assert (texts, skipped) == ([text] * 20, [])
    rows = [json.dumps({"text": text}, ensure_ascii=False)] * 20
    assert read_one(tmp_path, "b.jsonl", "\r\n".join(rows).encode(encoding)) == ([text] * 20, [])
    assert read_one(tmp_path, "c.json", f"[{','.join(rows)}]".encode(encoding)) == ([text] * 20, [])


@pytest.mark.parametrize("data", [b'"open', b"a\rb\rc\n", b"\xff\xfe"])
def test_a_csv_without_a_header_is_listed(tmp_path: Path, data: bytes):
    texts, skipped = read_one(tmp_path, "a.csv", data)
    assert texts == [] and [source for source, _ in skipped] == ["a.csv"]


def test_parquet_without_text_column_and_with_nulls(tmp_path: Path):
    for name, columns in [
        ("a", {"n": [1], "m": ["x"]}),
        ("b", {"text": ["x", None, ""]}),
        ("c", {"text": [1, 2]}),
    ]:
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
    documents, log = read(tmp_path)
    assert [(one.source, one.text) for one in documents] == [("b.parquet#0", "x"), ("b.parquet#2", "")]
    assert [(one.source, one.reason) for one in log.skipped] == [
        ("a.parquet", "no text column"),
        ("b.parquet#1", "no text in the row"),
        ("c.parquet", "no text column"),
    ]
    assert "it has n, m" in log.skipped[0].detail


@pytest.mark.parametrize(
    "kind",
    [
        *(pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
        *(pyarrow.binary(), pyarrow.large_binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.binary())),
    ],
)
def test_every_kind_of_text_column_over_many_row_groups(tmp_path: Path, kind: pyarrow.DataType):
    texts = [f"row {number}" for number in range(1050)]
    column = pyarrow.array(texts).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet", row_group_size=400)
    documents, _ = read(tmp_path)
    assert [document.text for document in documents] == texts


def test_bytes_in_a_parquet_file_that_are_no_text(tmp_path: Path):
    cells = pyarrow.array([b"caf\xe9", "naïve".encode()]).view(pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), 2, cells.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    documents, log = read(tmp_path)
    assert [document.text for document in documents] == ["café", "naïve"]
    assert log.repaired == ["a.parquet#0"]


def test_pictures_are_no_text_and_a_column_of_nulls_is_none(tmp_path: Path):
    columns = {
        "text": pyarrow.array([None, None, None], pyarrow.null()),
        "content": [b"words", b"\0" * 99, None],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    documents, log = read(tmp_path)
    assert [one.text for one in documents] == ["words"]
    assert [one.reason for one in log.skipped] == ["binary, not text", "no text in the row"]


def test_of_a_damaged_parquet_file_every_row_is_accounted_for(tmp_path: Path):
    """Bytes of one row group are spoilt: its rows are counted, those of the others read."""
    texts = [f"row {number} {random.Random(number).getrandbits(4000)}" for number in range(400)]
    table = pyarrow.table({"text": texts})
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100, **options)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    for place in range(int(len(data) * 0.3), int(len(data) * 0.4)):
        data[place] ^= 0x55
    (tmp_path / "a.parquet").write_bytes(data)
    documents, log = read(tmp_path)
    assert [one.text for one in documents][:100] == texts[:100] and [one.text for one in documents][
        -200:
    ] == texts[-200:]
    assert set(log.skipped_by_reason) == {"damaged Parquet file"}
    assert len(documents) + log.skipped_by_reason.total() == 400 == log.records and not log.unaccounted


def test_a_parquet_file_may_unfold_only_so_far(tmp_path: Path):
    """One entry of 1 MB in its dictionary stands for 10 GB; and one cell of 100 MB, packed to nothing."""
    entry = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 10_000, pyarrow.int32()), ["x" * 2**20])
    pyarrow.parquet.write_table(pyarrow.table({"text": entry}), tmp_path / "a.parquet", store_schema=False)
    cell = pyarrow.table({"text": ["x" * 10**8]})
    pyarrow.parquet.write_table(cell, tmp_path / "b.parquet", compression="zstd", use_dictionary=False)
    documents, log = read(tmp_path)
    assert {one.reason for one in log.skipped} == {"expands more than read.max_expansion times"}
    assert log.skipped[-1].source == "b.parquet#0"
    assert len(documents) < 100 and len(documents) + log.skipped_by_reason.total() == 10_001


def test_a_damaged_parquet_file_never_ends_the_process(tmp_path: Path):
    """pyarrow calls abort() when asked for the metadata of a column that a flipped bit has spoilt: it is not asked."""
    path = tmp_path / "a.parquet"
    texts = [f"row {number}" for number in range(100)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    data, footer = path.read_bytes(), 8 + int.from_bytes(path.read_bytes()[-8:-4], "little")
    for place in range(len(data) - footer, len(data), 3):
        damaged = bytearray(data)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        found, log = read(path)
        assert len(found) <= 100 or os.environ  # any number, if nothing was raised
        assert all(one.source.startswith("a.parquet") for one in log.skipped)
