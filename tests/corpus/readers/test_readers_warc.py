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
    other, media, status = (
        "record of another type",
        "media type that is not read",
        "page with an error status",
    )
    expected_skipped = [
        *((0, other), (2, other), (4, status), (5, media), (7, media)),
        *((8, other), (9, "binary, not text"), (10, "empty")),
    ]
    assert [(one.source, one.reason) for one in log.skipped] == [
        (f"{name}#{position}", reason)
        for name in ("a.warc", "b.warc.gz")
        for position, reason in expected_skipped
    ]
    assert [one.detail for one in log.skipped][:4] == ["warcinfo", "request", "404", "application/json"]


def test_texts_that_common_crawl_took_from_pages_are_read(tmp_path: Path):
    info = record(b"warcinfo", b"software: x", b"Content-Type: application/warc-fields")
    texts = [f"Überschrift {number}\nText" for number in range(3)]
    wet = [record(b"conversion", text.encode(), b"Content-Type: text/plain") for text in texts]
    for name in ("a.warc.wet.gz", "b.wet.gz", "c.warc.gz"):
        data = b"".join(map(gzip.compress, [info, *wet]))
        assert read_one(tmp_path, name, data) == (texts, [(f"{name}#0", "record of another type")])


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


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"<p>plain", [b"Content-Encoding: gzip"]),
        (b"<p>plain", [b"Content-Encoding: br"]),
        (b"<p>plain", [b"content-encoding: x-made-up"]),
        (b"<p>plain", [b"Transfer-Encoding: chunked"]),
        (b"<p>plain", [b"Content-Encoding: gzip", b"Transfer-Encoding: chunked"]),
        (gzip.compress(b"<p>plain", mtime=0), [b"Content-Encoding: gzip", b"Transfer-Encoding: chunked"]),
        (gzip.compress(b"<p>plain", mtime=0), [b"X: nothing is claimed"]),
        (gzip.compress(b"<p>plain", mtime=0), [b"Content-Encoding: x-gzip"]),
        (gzip.compress(gzip.compress(b"<p>plain", mtime=0), mtime=0), [b"Content-Encoding: gzip"]),
        (b"8\r\n<p>plain\r\n0\r\n\r\n", [b"Content-Encoding: gzip", b"Transfer-Encoding: chunked"]),
    ],
)
def test_codings_that_a_header_claims_and_the_body_has_not(
    tmp_path: Path, content: bytes, headers: list[bytes]
):
    assert read_one(tmp_path, "a.warc", page(content, *headers) + GOOD) == (["<p>plain", "<p>good"], [])


@pytest.mark.parametrize("charset", [b"utf-8", b"utf-16", b"ascii", b"x-unknown", b"iso-2022-jp"])
def test_charsets_that_a_header_claims_and_the_body_has_not(tmp_path: Path, charset: bytes):
    text = "<p>Größe, Füße und Käse für Bärbel. Übrig blieb höchstens das Öl der Mühle."
    for content in (text.encode(), text.encode("cp1252")):
        assert read_one(tmp_path, "a.warc", page(content, kind=b"text/html; charset=" + charset)) == (
            [text],
            [],
        )


def test_the_charset_is_that_of_the_header_else_that_of_the_page(tmp_path: Path):
    text = "Привет"
    by_header = page(text.encode("koi8-r"), kind=b"text/html; charset=koi8-r")
    by_page = page(f'<meta charset="windows-1251">{text}'.encode("cp1251"))
    (tmp_path / "a.warc").write_bytes(
        by_header + by_page + page(text.encode(), kind=b"text/html; charset=koi8-r")
    )
    documents, log = read(tmp_path)
    assert [one.text.endswith(text) for one in documents] == [True] * 3 and log.repaired == []


BOMB = page(gzip.compress(b"0" * 50_000_000, mtime=0), b"Content-Encoding: gzip")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (
            page(gzip.compress(b"<p>spoilt", mtime=0)[:10] + b"\xff" * 20, b"Content-Encoding: gzip"),
            "damaged record",
        ),
        (page(b"9\r\ncut", b"Transfer-Encoding: chunked"), "damaged record"),
        (page(b"x", b"X: " + b"y" * 100_000), "damaged record"),
        (BOMB, "longer than read.max_document_bytes"),
        (page(b"x" * 5_000_000), "longer than read.max_document_bytes"),
    ],
)
def test_a_bad_record_does_not_take_the_next_with_it(tmp_path: Path, bad: bytes, reason: str):
    texts, skipped = read_one(tmp_path, "a.warc", GOOD + bad + GOOD, max_document_bytes=4_000_000)
    assert (texts, skipped) == (["<p>good", "<p>good"], [("a.warc#1", reason)])


@pytest.mark.parametrize(
    "bad",
    [
        b"rubbish\r\n" * 100,
        *(b"r" * length + b"\r\n" for length in range(1, 20)),
        record(b"response", b"", b"X: " + b"y" * 100_000),
        record(b"response", b"12345", length=-5),
        record(b"response", b"12345", length=3),
        record(b"resource", b"x", b"Content-Type: text/html", length=10**15),
        GOOD[: GOOD.index(b"<p>")] + b"\r\n\r\n",
        GOOD.replace(b"Content-Length", b"Content-Lost"),
    ],
)
def test_a_damaged_record_costs_that_record(tmp_path: Path, bad: bytes):
    texts, noted = read_one(tmp_path, "a.warc", GOOD + bad + GOOD * 2)
    assert texts == ["<p>good"] * 3 and noted == [("a.warc#1", "damaged record")]
    texts, noted = read_one(tmp_path, "a.warc", GOOD + bad)
    assert texts == ["<p>good"] and noted == [("a.warc#1", "damaged record")]


def test_a_damaged_archive_in_a_file_of_archives_costs_that_one(tmp_path: Path):
    packed = [gzip.compress(page(b"<p>%d" % number), mtime=0) for number in range(50)]
    damaged = bytearray(packed[20])
    damaged[len(damaged) // 2] ^= 0xFF
    packed[20] = bytes(damaged)
    packed[40] = packed[40][:50]
    texts, noted = read_one(tmp_path, "a.warc.gz", b"".join(packed))
    assert {f"<p>{number}" for number in range(50) if number not in (20, 40)} <= set(texts) and len(
        texts
    ) <= 50
    assert {reason for _, reason in noted} <= {"damaged archive", "damaged record"}
    assert [reason for _, reason in noted].count("damaged archive") == 2


def test_videos_are_no_pages_however_long(tmp_path: Path):
    video = page(b"\0" * 50_000, kind=b"video/mp4")
    texts, noted = read_one(tmp_path, "a.warc", video + GOOD, max_document_bytes=1024)
    assert (texts, noted) == (["<p>good"], [("a.warc#0", "media type that is not read")])
