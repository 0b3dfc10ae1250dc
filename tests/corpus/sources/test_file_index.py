"""Which files a corpus consists of: order, links, places outside, URLs, digests and what is remembered of them."""

import hashlib
import inspect
import os
import sqlite3
import sys
from pathlib import Path

import fsspec
import pytest

from leanpipe.core.allowed_paths import Roots
from leanpipe.core.errors import UserError
from leanpipe.corpus.readers import READERS
from leanpipe.corpus.sources import digest_cache as digests
from leanpipe.corpus.sources.file_index import KINDS, FileIndex, check_corpus, file_index_digest, index_corpus
from leanpipe.corpus.sources.read_log import ReadLog
from tests.corpus.reading import read, reasons

NAMES = ["a.txt", "b/c.html", "b/d/e.jsonl.gz", "b.csv", "b/d.parquet", "z/.hidden.txt", "z/picture.png"]


def fill(folder: Path) -> Path:
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    return folder


def listed(place: Path | str, **options) -> tuple[list[str], list[tuple[str, str]]]:
    """Sources of the files, and what was passed over."""
    log = ReadLog()
    file_index = index_corpus(str(place), log, **options)
    assert file_index.skipped == tuple(log.skipped)
    return [file.source for file in file_index.files], reasons(log)


@pytest.fixture
def bucket():
    """A folder in a file system that is not on the disk."""
    fs = fsspec.filesystem("memory")
    for name in NAMES:
        fs.pipe(f"/bucket/{name}", f"content of {name}".encode())
    yield "memory://bucket"
    fs.rm("/bucket", recursive=True)


def test_a_folder_and_a_bucket_with_the_same_names_have_the_same_order(tmp_path: Path, bucket: str):
    expected = (
        ["a.txt", "b/c.html", "b/d/e.jsonl.gz", "b/d.parquet", "b.csv"],
        [("z/.hidden.txt", "hidden"), ("z/picture.png", "unknown kind of file")],
    )
    assert listed(fill(tmp_path)) == listed(bucket) == listed(f"file://{tmp_path}") == expected


def test_what_is_known_of_a_file(tmp_path: Path):
    (tmp_path / "a.TSV.Zst").write_bytes(b"abc")
    [file] = index_corpus(str(tmp_path / "a.TSV.Zst"), ReadLog(), corpus=3).files
    assert (file.url, file.source) == (str(tmp_path / "a.TSV.Zst"), "a.TSV.Zst")
    assert (file.kind, file.compression, file.corpus, file.size) == ("csv", ".zst", 3, 3)
    assert file.digest == hashlib.sha256(b"abc").hexdigest()


def test_every_ending_has_a_reader():
    assert set(KINDS.values()) == set(READERS)


def test_a_url_is_read_like_a_folder(bucket: str):
    documents, _ = read(f"{bucket}/a.txt")
    assert [(one.source, one.text) for one in documents] == [("a.txt", "content of a.txt")]
    documents, log = read(bucket)
    assert [one.source for one in documents] == ["a.txt", "b/c.html"]
    assert ("b/d/e.jsonl.gz#0", "line is not JSON") in reasons(log)
    assert ("b/d.parquet", "damaged Parquet file") in reasons(log)


def test_the_digest_of_a_remote_file_follows_its_content():
    fs = fsspec.filesystem("memory")

    def digest(content: bytes) -> str:
        fs.pipe("/changing/a.txt", content)
        return index_corpus("memory://changing/a.txt", ReadLog()).files[0].digest

    first = digest(b"one")
    assert first == index_corpus("memory://changing", ReadLog()).files[0].digest
    assert first != digest(b"three")


def test_the_same_files_have_the_same_digest_wherever_they_lie(tmp_path: Path):
    for name in ("x", "y", "z"):
        fill(tmp_path / name)
    (tmp_path / "z" / "a.txt").write_text("changed")
    x, y, z = (file_index_digest(index_corpus(str(tmp_path / name), ReadLog())) for name in ("x", "y", "z"))
    assert x == y != z
    (tmp_path / "y" / "a.txt").rename(tmp_path / "y" / "a2.txt")
    assert file_index_digest(index_corpus(str(tmp_path / "y"), ReadLog())) != x


def test_a_listing_survives_its_file_also_with_names_that_are_no_text(tmp_path: Path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("coffee")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_text("picture")
    file_index = index_corpus(str(tmp_path), ReadLog())
    file_index.save(tmp_path / "new" / "listing.json")
    loaded = FileIndex.load(tmp_path / "new" / "listing.json")
    assert loaded == file_index
    assert loaded.files[0].source == "caf\udce9.txt" and loaded.skipped[0].source == "caf\udce9.png"
    assert [one.text for one in read(loaded.files[0].url)[0]] == ["coffee"]


def test_loops_of_links_end_and_linked_folders_are_read_once(tmp_path: Path):
    elsewhere, corpus = tmp_path / "elsewhere", tmp_path / "corpus"
    elsewhere.mkdir()
    corpus.mkdir()
    (elsewhere / "far.txt").write_text("far")
    (corpus / "a.txt").write_text("near")
    for name, target in [("again", elsewhere), ("linked", elsewhere), ("loop", corpus), ("up", tmp_path)]:
        (corpus / name).symlink_to(target)
    (corpus / "nothing.txt").symlink_to(tmp_path / "missing")
    (corpus / "self.txt").symlink_to(corpus / "self.txt")
    os.mkfifo(corpus / "pipe.txt")
    assert listed(corpus) == (
        ["a.txt", "again/far.txt"],
        [
            ("linked", "link to a folder already read"),
            ("loop", "link to a folder already read"),
            ("nothing.txt", "broken link or special file"),
            ("pipe.txt", "broken link or special file"),
            ("self.txt", "broken link or special file"),
            ("up/corpus", "link to a folder already read"),
            ("up/elsewhere", "link to a folder already read"),
        ],
    )


def test_links_that_lead_outside_the_permitted_folders_are_not_followed(tmp_path: Path):
    for name in ("corpus", "secret", "shared"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    for name, target in [
        ("b", "secret"),
        ("c.txt", "secret/a.txt"),
        ("d", "shared"),
        ("e.txt", "corpus/a.txt"),
    ]:
        (tmp_path / "corpus" / name).symlink_to(tmp_path / target)
    outside = "link that leads outside the permitted folders"
    roots = Roots((f"{tmp_path}/corpus", f"{tmp_path}/shared"))
    assert listed(tmp_path / "corpus", roots=roots) == (
        ["a.txt", "d/a.txt", "e.txt"],
        [("b", outside), ("c.txt", outside)],
    )
    for place in (tmp_path / "secret", tmp_path / "corpus" / "b", "/", "memory://x"):
        with pytest.raises(UserError, match="outside the permitted folders"):
            index_corpus(str(place), ReadLog(), roots)
        with pytest.raises(UserError, match="outside the permitted folders"):
            check_corpus([str(place)], roots)


def test_folders_within_folders_are_walked_without_recursion(tmp_path: Path):
    """Deeper than the stack may get: on a real one it would be 1,000, which pytest could not clean away."""
    (tmp_path / ("d/" * 200)).mkdir(parents=True)
    (tmp_path / ("d/" * 200) / "a.txt").write_text("deep")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert listed(tmp_path) == (["d/" * 200 + "a.txt"], [])
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_passed_over(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").write_text("secret")
    (tmp_path / "a").chmod(0)
    (tmp_path / "b.txt").chmod(0)
    assert listed(tmp_path) == ([], [("a", "not readable"), ("b.txt", "not readable")])


def test_a_file_that_vanishes_after_listing_is_passed_over(tmp_path: Path):
    from leanpipe.corpus.readers import ReadConfig, read_file

    for name in KINDS:
        (tmp_path / f"a{name}").write_text("text")
    log = ReadLog()
    for file in index_corpus(str(tmp_path), ReadLog()).files:
        Path(file.url).unlink()
        assert list(read_file(file, log, ReadConfig())) == []
    assert reasons(log) == [(f"a{name}", "not readable") for name in sorted(KINDS)]


def settled(path: Path, content: str, age: float) -> Path:
    """A file that was last changed `age` seconds ago, if one believes its times."""
    path.write_text(content)
    status = path.stat()
    os.utime(path, ns=(status.st_mtime_ns - int(age * 1e9),) * 2)
    return path


@pytest.fixture
def counted(monkeypatch) -> list[Path]:
    """The files whose bytes were read to digest them."""
    seen: list[Path] = []
    digest_file = digests.digest_file

    def counting(path: Path) -> str:
        seen.append(path)
        return digest_file(path)

    monkeypatch.setattr(digests, "digest_file", counting)
    return seen


def test_a_file_is_digested_again_only_if_it_changed(tmp_path: Path, counted: list[Path], monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED", 0.0)  # else the test would have to wait for two seconds
    cache, file = tmp_path / "cache" / "digests", tmp_path / "corpus" / "a.txt"
    file.parent.mkdir()
    file.write_text("one")

    def digest() -> str:
        return index_corpus(str(file), ReadLog(), cache=cache).files[0].digest

    assert digest() == digest() == hashlib.sha256(b"one").hexdigest()
    assert counted == [file]
    times = file.stat()
    file.write_text("two")  # as long, and with the old time of change
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest() == digest() == hashlib.sha256(b"two").hexdigest()
    assert counted == [file, file]


def test_a_file_that_changed_a_moment_ago_is_not_remembered(tmp_path: Path, counted: list[Path]):
    cache, file = tmp_path / "digests", settled(tmp_path / "a.txt", "one", age=3600)
    for _ in range(2):  # the time of the inode's change cannot be set back
        index_corpus(str(file), ReadLog(), cache=cache)
    assert counted == [file, file]


def test_a_damaged_cache_is_begun_anew(tmp_path: Path, counted: list[Path], monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED", 0.0)
    cache, file = tmp_path / "digests", tmp_path / "a.txt"
    file.write_text("one")
    cache.write_bytes(b"no database" * 1000)
    for _ in range(2):
        index_corpus(str(file), ReadLog(), cache=cache)
    assert counted == [file]
    assert sqlite3.connect(cache).execute("SELECT COUNT(*) FROM digests").fetchone() == (1,)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("missing", None, "does not exist"),
        ("x" * 5000, None, "cannot be read"),
        ("a.doc", b"%PDF", "is of an unknown kind: give a file with text in it"),
        ("a.txt", b"", "is empty"),
    ],
)
def test_a_single_file_is_refused(tmp_path: Path, name: str, data: bytes | None, sentence: str):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        check_corpus([str(path)])


def test_folders_without_text_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="has no file with text in it: put files there, any of"):
        check_corpus([str(tmp_path)])
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.txt").write_bytes(b"")
    with pytest.raises(UserError, match=r"\(1 others were passed over\)"):
        check_corpus([str(tmp_path)])
    with pytest.raises(UserError, match="no corpus was given"):
        check_corpus([])
    (tmp_path / "c.txt").write_bytes(b"x")
    check_corpus([str(tmp_path), str(tmp_path / "c.txt")])


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("memory://not/there", "does not exist"),
        ("nonsense://bucket/x", "cannot be opened .*nonsense"),
        ("file:///not/there", "does not exist"),
    ],
)
def test_a_url_is_refused(url: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        check_corpus([url])
