"""JSON as programs write it: lists, objects that hold lists, lines, and what is damaged among them."""

import gzip
import io
import json
import random
import tracemalloc
from pathlib import Path

import pytest

from leanpipe.corpus.readers import json_values
from leanpipe.corpus.readers.json_values import JsonScanner
from tests.corpus.reading import read_one

ROWS: list[dict] = [
    {"text": "one"},
    {"id": [{"n": 1}], "text": 'two "]}'},
    {"other": "x"},
    {"content": "three"},
]
TEXTS = ["one", 'two "]}', "three"]
LINES = [json.dumps(row) for row in ROWS]
SHAPES = {
    "list": json.dumps(ROWS),
    "printed list": json.dumps(ROWS, indent=2),
    "list of lines": "[\n" + ",\n".join(LINES) + "\n]\n",
    "list that ends with a comma": "[" + ",".join(LINES) + ",]",
    "object": json.dumps({"version": [1, 2], "data": ROWS}),
    "printed object": json.dumps({"version": "1", "rows": ROWS}, indent=1),
    "object in an object": json.dumps({"result": {"records": ROWS}}),
    "lines": "\n".join(LINES),
    "lines that end with commas": ",\n".join(LINES),
    "printed values": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "values without an end of line": "".join(LINES),
    "sequence of RFC 7464": "".join(f"\x1e{json.dumps(row, indent=1)}\n" for row in ROWS),
}


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".ndjson"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_found_whatever_the_file_is_called(tmp_path: Path, shape: str, ending: str):
    for name, data in (
        (f"a{ending}", SHAPES[shape].encode()),
        (f"b{ending}.gz", gzip.compress(SHAPES[shape].encode("utf-8-sig"))),
        (f"c{ending}", SHAPES[shape].encode("utf-16")),
    ):
        assert read_one(tmp_path, name, data) == (TEXTS, [(f"{name}#2", "no text column")])


@pytest.mark.parametrize(
    ("content", "texts", "skipped"),
    [
        ({"text": "a", "list": [{"text": "b"}]}, ["a"], []),
        ({"text": ["a", "b"], "n": [1, 2]}, ["a", "b"], []),
        (["a", "b"], ["a", "b"], []),
        ({"name": "package", "files": ["a", "b"]}, [], [("a.json#0", "no text column")]),
        ([[1, "a"], 3, None], [], [(f"a.json#{row}", "no text column") for row in range(3)]),
        ([], [], [("a.json", "empty")]),
        ("text", [], [("a.json#0", "no text column")]),
    ],
)
def test_what_is_a_row(tmp_path: Path, content, texts: list[str], skipped: list[tuple[str, str]]):
    assert read_one(tmp_path, "a.json", json.dumps(content).encode()) == (texts, skipped)


def test_odd_lines_are_skipped_one_by_one(tmp_path: Path):
    lines = ['"context"', '["text", "foo"]', "42", "null", '{"text": ["a", "b"]}', '{"text": "good"}', "[1,"]
    texts, skipped = read_one(tmp_path, "a.jsonl", "\n".join(lines).encode())
    assert texts == ["good"]
    assert [source for source, _ in skipped] == [f"a.jsonl#{number}" for number in (0, 1, 2, 3, 4, 6)]


@pytest.mark.parametrize("between", [",", ",\n", ",\n  "])
@pytest.mark.parametrize(
    "bad", ['{"text": "a"b"}', '{"text": "a}', '{"text": a}', '{"text": "a"', '{"text": "\\x"}']
)
def test_a_broken_row_of_a_list_costs_that_row(tmp_path: Path, bad: str, between: str):
    good = ['{"text": "good", "n": {"m": 1}}'] * 3
    data = f"[{between.join([*good, bad, *good])}]".encode()
    texts, skipped = read_one(tmp_path, "a.json", data)
    assert texts[:3] == ["good"] * 3 and skipped == [("a.json#3", "row is not JSON")]
    assert len(texts) == 6


def test_a_list_that_breaks_off_is_told(tmp_path: Path):
    for data in (b'[{"text": "a"}, {"text": "b', b'[{"text": "a"}, ', b'{"data": [{"text": "a"}]'):
        texts, skipped = read_one(tmp_path, "a.json", data)
        assert len(skipped) == 1 and skipped[0][1] == "row is not JSON" and texts in (["a"], [])


def test_long_rows_and_long_objects(tmp_path: Path):
    rows = [{"text": "1"}, {"text": "x" * 3000, "n": 1}, {"text": "3"}]
    too_long = "longer than read.max_document_bytes"
    for content in (rows, {"data": rows}, {"meta": "y", "deep": {"data": rows}}):
        texts, skipped = read_one(tmp_path, "a.json", json.dumps(content).encode(), max_document_bytes=1024)
        assert (texts, skipped) == (["1", "3"], [("a.json#1", too_long)])
    long = json.dumps({"text": "x" * 3000}).encode()
    assert read_one(tmp_path, "a.json", long, max_document_bytes=1024) == ([], [("a.json#0", too_long)])


def _value(chance: random.Random, depth: int = 0):
    kind = chance.randint(0, 6 if depth < 4 else 3)
    if kind < 2:
        return chance.choice([None, True, 3, -0.5])
    if kind < 4:
        return "".join(chance.choice('ab"\\{}[],:\n é/') for _ in range(chance.randint(0, 30)))
    inside = [_value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    return inside if kind == 4 else {f"k{number}": one for number, one in enumerate(inside)}


def test_the_scanner_finds_the_rows_that_a_parser_finds_wherever_a_chunk_ends(monkeypatch):
    chance = random.Random(0)
    for _ in range(500):
        monkeypatch.setattr(json_values, "_CHUNK", chance.choice([1, 2, 3, 7, 1000]))
        rows = [_value(chance) for _ in range(chance.randint(0, 8))]
        data = json.dumps(rows, indent=chance.choice([None, 1])).encode()
        assert [json.loads(row.data) for row in JsonScanner(io.BytesIO(data), 10**6).rows()] == rows
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] = chance.choice(b'"{}[],\\')
        scanner = JsonScanner(io.BytesIO(bytes(damaged)), chance.choice([20, 10**6]))
        assert len(list(scanner.rows())) < 500  # ends


def test_of_a_long_list_one_row_is_in_memory(tmp_path: Path):
    data = json.dumps([{"text": f"{number} " + "word " * 200} for number in range(20_000)]).encode()
    stream = io.BytesIO(data)
    tracemalloc.start()
    count = sum(1 for _ in JsonScanner(stream, 10**6).rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < len(data) / 3
