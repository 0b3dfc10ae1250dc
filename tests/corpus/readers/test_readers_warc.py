"""Web archives: pages as servers sent them."""

import gzip
import zlib
from pathlib import Path

import pytest
import zstandard

from tests.corpus.reading import read, read_one


def record(kind: bytes, content: bytes, *headers: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    head = [b"WARC/1.0", b"WARC-Type: " + kind, b"Content-Length: %d" % size, *headers]
    return b"\r\n".join([*head, b"", content, b"", b""])


def page(content: bytes, *headers: bytes, kind: bytes = b"text/html", status: bytes = b"200 OK") -> bytes:
    head = [b"HTTP/1.1 " + status, b"Content-Type: " + kind, *headers]
    http = b"\r\n".join([*head, b"", content])
    return record(b"response", http, b"Content-Type: application/http; msgtype=response")


GOOD = page(b"<p>good")


def test_what_is_a_document(tmp_path: Path):
    archive = [
        record(b"warcinfo", b"software: x", b"Content-Type: application/warc-fields"),
        GOOD,
        record(b"request", b"GET / HTTP/1.1\r\n\r\n", b"Content-Type: application/http; msgtype=request"),
        page(b"text", kind=b"text/plain"),
        page(b"gone", status=b"404 Not Found"),
        page(b"{}", kind=b"application/json"),
        record(b"resource", "naïve".encode("latin-1"), b"Content-Type: text/html; charset=ISO-8859-1"),
        record(b"resource", b"\x89PNG", b"Content-Type: image/png"),
        record(b"metadata", b"x: y", b"Content-Type: application/warc-fields"),
        page(b"\0" * 100),
        page(b""),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(archive))
    (tmp_path / "b.warc.gz").write_bytes(b"".join(map(gzip.compress, archive)))
    documents, log = read(tmp_path)
    expected = [("#1", "<p>good", True), ("#3", "text", False), ("#6", "naïve", True)]
    assert [(one.source, one.text, one.html) for one in documents] == [
        (f"{name}{position}", text, html)
        for name in ("a.warc", "b.warc.gz")
        for position, text, html in expected
    ]
    assert [(one.source, one.reason) for one in log.skipped] == [
        ("a.warc#9", "binary, not text"),
        ("a.warc#10", "empty"),
        ("b.warc.gz#9", "binary, not text"),
        ("b.warc.gz#10", "empty"),
    ]
    assert log.counters["records that are no pages"] == 6


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        (b"Content-Encoding: gzip", gzip.compress(b"<p>packed", mtime=0)),
        (b"Content-Encoding: deflate", zlib.compress(b"<p>packed")),
        (b"Content-Encoding: zstd", zstandard.compress(b"<p>packed")),
        (b"Transfer-Encoding: chunked", b"4\r\n<p>p\r\n5\r\nacked\r\n0\r\n\r\n"),
    ],
)
def test_pages_are_unpacked(tmp_path: Path, encoding: bytes, content: bytes):
    assert read_one(tmp_path, "a.warc", page(content, encoding) + GOOD) == (["<p>packed", "<p>good"], [])


def test_the_charset_is_that_of_the_header_else_that_of_the_page(tmp_path: Path):
    text = "Привет"
    by_header = page(text.encode("koi8-r"), kind=b"text/html; charset=koi8-r")
    by_page = page(f'<meta charset="windows-1251">{text}'.encode("cp1251"))
    (tmp_path / "a.warc").write_bytes(
        by_header + by_page + page(text.encode(), kind=b"text/html; charset=koi8-r")
    )
    documents, log = read(tmp_path)
    assert [one.text.endswith(text) for one in documents] == [True] * 3 and log.repaired == []


BOMB = page(gzip.compress(b"0" * 50_000_000), b"Content-Encoding: gzip")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (page(b"no gzip at all", b"Content-Encoding: gzip"), "damaged record"),
        (page(b"zz\r\nnot chunked", b"Transfer-Encoding: chunked"), "damaged record"),
        (page(b"x", b"X: " + b"y" * 100_000), "damaged record"),
        (BOMB, "longer than read.max_document_bytes"),
        (page(b"x" * 5_000_000), "longer than read.max_document_bytes"),
    ],
)
def test_a_bad_record_does_not_take_the_next_with_it(tmp_path: Path, bad: bytes, reason: str):
    texts, skipped = read_one(tmp_path, "a.warc", GOOD + bad + GOOD, max_document_bytes=4_000_000)
    assert (texts, skipped) == (["<p>good", "<p>good"], [("a.warc#1", reason)])


@pytest.mark.parametrize(
    ("rest", "skipped"),
    [
        (b"rubbish\r\n" * 100 + GOOD, ("a.warc", "damaged web archive")),
        (record(b"response", b"", b"X: " + b"y" * 100_000) + GOOD, ("a.warc", "damaged web archive")),
        (record(b"response", b"12345", length=-5) + GOOD, ("a.warc", "damaged web archive")),
        (GOOD[: GOOD.index(b"<p>") + 2], ("a.warc#1", "damaged record")),
        (
            record(b"resource", b"x", b"Content-Type: text/html", length=10**15) + GOOD,
            ("a.warc#1", "damaged record"),
        ),
    ],
)
def test_what_stands_before_damage_is_read(tmp_path: Path, rest: bytes, skipped: tuple[str, str]):
    texts, noted = read_one(tmp_path, "a.warc", GOOD + rest)
    assert texts == ["<p>good"] and noted == [skipped]


def test_videos_are_no_pages_however_long(tmp_path: Path):
    video = page(b"\0" * 50_000, kind=b"video/mp4")
    assert read_one(tmp_path, "a.warc", video + GOOD, max_document_bytes=1024) == (["<p>good"], [])
