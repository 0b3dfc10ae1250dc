"""What people have on their disks: each kind is read as it reads on paper, and what cannot be read is counted with its reason."""

import gzip
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from leanpipe.assets.resolve import resolve_corpus
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.corpus.readers import ReadConfig, read_file
from leanpipe.corpus.readers.documents import DOCUMENT_KINDS, bounded_process
from leanpipe.corpus.readers.documents.printed_lines import join_pages
from leanpipe.corpus.sources.file_index import KINDS, FileIndex, check_corpus
from leanpipe.corpus.sources.optional_kinds import NEEDED_PACKAGES, NEEDS_EXTRA
from leanpipe.corpus.sources.read_log import ReadLog
from tests.corpus.readers.documents.by_hand import (
    docx,
    epub,
    notebook,
    odt,
    pdf,
    pdf_bomb,
    pdf_of_pictures,
    pdf_with_password,
    word,
    zipped,
)
from tests.corpus.reading import read, read_one, reasons

for package in NEEDED_PACKAGES.values():
    pytest.importorskip(package)

LONG = "The first of the long lines of this paragraph goes on and on, up to the edge of the paper"
LETTERS = str.maketrans("01234567", "abdefghj")
RTF = rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\*\generator x;}Caf\'e9 \u8211? \uc1\u-10179?\u-8704?\par {\b Two}\par}"
RST = """\
Title
=====

.. toctree::

   other

See :py:func:`~a.b.read` and :ref:`the end <end>`, *soon*.

.. raw:: html

   <script>steal()</script>

.. include:: /etc/hostname

.. versionadded:: 3.1
   It is new.

.. image:: x.png

.. code-block:: python
   :caption: c

   print(1)
"""
PAGES = [
    ["A Manual", f"{LONG}", "and ends here.", "A heading", f"{LONG.replace('first', 'second')}", "1 of 3"],
    ["A Manual", "with this.", "Contents . . . . . . . . 7", "• an item", "2 of 3"],
    ["A Manual", "(The end)", "3 of 3"],
]
DOCX_BODY = (
    word("A heading", "Heading1")
    + '<w:p><w:r><w:t xml:space="preserve">One </w:t></w:r><w:ins w:id="1"><w:r><w:t>inserted</w:t></w:r></w:ins>'
    '<w:del w:id="2"><w:r><w:delText>deleted</w:delText></w:r></w:del>'
    '<w:r><w:footnoteReference w:id="1"/></w:r></w:p>'
    + f"<w:sdt><w:sdtContent>{word('In a control')}</w:sdtContent></w:sdt>"
    + f"<w:tbl><w:tr><w:tc>{word('a')}</w:tc><w:tc>{word('b')}</w:tc></w:tr></w:tbl>"
)
ODT_BODY = (
    '<text:sequence-decls/><text:h text:outline-level="1">A heading</text:h>'
    "<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
    '<text:p>One<text:s text:c="2"/><text:span>two</text:span><text:note><text:note-citation>1</text:note-citation>'
    "<text:note-body><text:p>The note.</text:p></text:note-body></text:note> &lt;three&gt;</text:p>"
    "<text:list><text:list-item><text:p>an item</text:p></text:list-item></text:list>"
    "<text:table-of-content><text:p>contents 7</text:p></text:table-of-content>"
    "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
    "<table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table>"
)
CHAPTERS = {
    "nav.xhtml": "<html><body><nav>contents</nav></body></html>",
    "b%20two.xhtml": "<html><head><title/><script/></head><body><p>Second.</p></body></html>",
    "a.xhtml": '<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "x.dtd">'
    "<html><body><h1>Title</h1><p>First,&nbsp;here.</p></body></html>",
}
CELLS = [
    ("markdown", ["# Title\n", "Words."]),
    ("code", "print(1)"),
    ("raw", "x"),
    ("code", ""),
    ("markdown", "End."),
]
READ: dict[str, tuple[bytes, str]] = {
    "docx": (
        docx(DOCX_BODY),
        "A heading\n\nOne inserted[1]\n\nIn a control\n\na | b\n\n- The note.",
    ),
    "epub": (
        epub(CHAPTERS, ["nav.xhtml", "a.xhtml", "b%20two.xhtml"], nav="nav.xhtml"),
        "Title\n\nFirst,\u00a0here.\n\nSecond.",
    ),
    "ipynb": (notebook(CELLS), "# Title\nWords.\n\n```python\nprint(1)\n```\n\nEnd."),
    "odt": (
        odt(ODT_BODY),
        "A heading\n\nOne\u00a0\u00a0two <three>\n\nThe note.\n\n- an item\n\na | b",
    ),
    "pdf": (
        pdf(PAGES),
        f"{LONG} and ends here.\nA heading\n{LONG.replace('first', 'second')} with this.\n• an item\n(The end)",
    ),
    "rst": (
        RST.encode(),
        "Title\n\nSee read and the end, soon.\n\n3.1 It is new.\n\nprint(1)",
    ),
    "rtf": (RTF, "Café – 😀\nTwo\n"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", READ)
def test_each_kind_reads_as_on_paper(tmp_path: Path, kind: str, packed: bool):
    data, text = READ[kind]
    name = f"a.{kind}{'.gz' if packed else ''}"
    assert read_one(tmp_path, name, gzip.compress(data) if packed else data) == ([text], [])


def test_every_kind_is_tried():
    assert set(READ) == set(DOCUMENT_KINDS) == {KINDS[f".{kind}"] for kind in READ}


def test_a_thousand_pages_are_read(tmp_path: Path):
    pages = [[f"This page has the word {oct(number).translate(LETTERS)}."] for number in range(1000)]
    texts, skipped = read_one(tmp_path, "a.pdf", pdf(pages))
    assert skipped == [] and texts[0].count("\n") == 999
    assert read_one(tmp_path, "a.pdf", pdf(pages), max_document_bytes=10**4)[1] == [
        ("a.pdf", "longer than read.max_document_bytes")
    ]


def test_parted_words_are_put_together_unless_they_are_written_with_a_hyphen():
    text = "a well-known thing, inter\x02national and well\x02known, pre\x02fix, prefix and pre-fix"
    assert join_pages([text]) == (
        "a well-known thing, international and well-known, prefix, prefix and pre-fix"
    )


@pytest.mark.parametrize("style", ["{0}", "Page {0}", "- {0} -", "Chapter {1} {0}", "{0} / 40"])
def test_numbers_of_pages_and_what_stands_with_them_are_left_out(style: str):
    """Also where each chapter has another headline, on two or three pages only."""
    pages = [
        f"Text {chr(65 + at)} of this page.\n{style.format(at + 3, 'ABCDEFGHIJKLMN'[at // 3])}"
        for at in range(40)
    ]
    assert join_pages(pages) == "\n".join(f"Text {chr(65 + at)} of this page." for at in range(40))


def test_what_is_numbered_but_no_page_stays():
    pages = [f"Rule {at * at + 7}\nEvery page has words of its own: {'x' * at}." for at in range(2)]
    assert join_pages(pages) == "\n".join(pages)


ENTITIES = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
ENCRYPTED_CHAPTER = '<e><CipherData><CipherReference URI="OEBPS/a.xhtml"/></CipherData></e>'
OLE = bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 600
HUGE = {"max_document_bytes": 2**20, "max_expansion": 2}
BOMB = "<!-- " + "x" * 9_000_000 + " -->"
BAD: dict[str, tuple[str, bytes, str]] = {
    "PDF cut off": ("pdf", pdf(PAGES)[:90], "damaged PDF"),
    "PDF that is none": ("pdf", b"\x89PNG\r\n\x1a\n", "damaged PDF"),
    "PDF with a password": ("pdf", pdf_with_password(), "encrypted"),
    "PDF of pictures": ("pdf", pdf_of_pictures(3), "no text in the document"),
    "PDF without pages": ("pdf", pdf([]), "damaged PDF"),
    "DOCX cut off": ("docx", docx(DOCX_BODY)[:-40], "damaged DOCX"),
    "DOCX that is a ZIP of other things": ("docx", zipped({"a": "b"}), "damaged DOCX"),
    "DOCX with entities": ("docx", docx(word("&b;"), ENTITIES), "damaged DOCX"),
    "DOCX with entities in UTF-16": ("docx", docx("", "", {"word/styles.xml": ENTITIES.replace("?>", ' encoding="utf-16"?>', 1).encode("utf-16") + "<x/>".encode("utf-16-le")}), "damaged DOCX"),
    "DOCX with a password": ("docx", OLE + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
    "DOCX of an old Word": ("docx", OLE, "damaged DOCX"),
    "DOCX without text": ("docx", docx(""), "no text in the document"),
    "DOCX nested deep": ("docx", docx("<w:sdt><w:sdtContent>" * 4000 + "</w:sdtContent></w:sdt>" * 4000), "damaged DOCX"),
    "DOCX that unfolds": ("docx", docx(BOMB), "expands more than read.max_expansion times"),
    "ODT cut off": ("odt", odt(ODT_BODY)[:-40], "damaged ODT"),
    "ODT with entities": ("odt", odt("<text:p>&b;</text:p>", ENTITIES), "damaged ODT"),
    "ODT with a password": ("odt", odt("x", manifest="<m><encryption-data/></m>"), "encrypted"),
    "ODT without text": ("odt", odt(""), "no text in the document"),
    "ODT nested deep": ("odt", odt("<text:span>" * 5000 + "</text:span>" * 5000), "damaged ODT"),
    "ODT that unfolds": ("odt", odt(BOMB), "expands more than read.max_expansion times"),
    "EPUB cut off": ("epub", epub(CHAPTERS)[:-40], "damaged EPUB"),
    "EPUB without a package": ("epub", zipped({"mimetype": "application/epub+zip"}), "damaged EPUB"),
    "EPUB whose chapter is missing": ("epub", epub({"../../x": ""}), "damaged EPUB"),
    "EPUB with DRM": ("epub", epub(CHAPTERS, encryption=ENCRYPTED_CHAPTER), "encrypted"),
    "EPUB that unfolds": ("epub", epub({"a.xhtml": BOMB}), "expands more than read.max_expansion times"),
    "RTF that is none": ("rtf", b"Dear Sir", "damaged RTF"),
    "RTF without text": ("rtf", rb"{\rtf1}", "no text in the document"),
    "RST without text": ("rst", b".. include:: /etc/hostname\n", "no text in the document"),
    "notebook cut off": ("ipynb", notebook(CELLS)[:-9], "damaged notebook"),
    "notebook that is a list": ("ipynb", b"[1]", "damaged notebook"),
    "notebook without cells": ("ipynb", b"{}", "damaged notebook"),
    "notebook without text": ("ipynb", notebook([("code", "")]), "no text in the document"),
    **{f"empty {kind}": (kind, b"", "empty") for kind in READ},
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_read_is_counted_with_its_reason(tmp_path: Path, what: str):
    kind, data, reason = BAD[what]
    settings = HUGE if "unfolds" in what else {}
    assert read_one(tmp_path, f"a.{kind}", data, **settings) == ([], [(f"a.{kind}", reason)])


def test_a_chapter_that_is_not_read_may_be_encrypted(tmp_path: Path):
    data = epub(CHAPTERS, ["b%20two.xhtml"], encryption=ENCRYPTED_CHAPTER)
    assert read_one(tmp_path, "a.epub", data) == (["Second."], [])


@pytest.mark.parametrize("kind", READ)
def test_damage_anywhere_never_raises(tmp_path: Path, kind: str):
    data = READ[kind][0]
    for number, at in enumerate(range(0, len(data), max(1, len(data) // 25))):
        (tmp_path / f"cut{number}.{kind}").write_bytes(data[:at])
        (tmp_path / f"flip{number}.{kind}").write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
    documents, log = read(tmp_path)
    assert len(documents) + len(log.skipped) == len(list(tmp_path.iterdir()))


def test_notebooks_of_format_3_are_read(tmp_path: Path):
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Title"},
        {"cell_type": "code", "input": ["a = 1\n", "b = '```'"]},
    ]
    data = json.dumps(
        {"worksheets": [{"cells": cells}], "metadata": {"language_info": {"name": "julia"}}}
    ).encode()
    assert read_one(tmp_path, "a.ipynb", data)[0] == ["## Title\n\n````julia\na = 1\nb = '```'\n````"]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch):
    """The next document is read by a process that is started with what the test sets."""
    bounded_process._close()
    yield monkeypatch
    bounded_process._close()


def test_a_document_that_takes_for_ever_is_one_skip(tmp_path: Path, fresh: pytest.MonkeyPatch):
    fresh.setattr(bounded_process, "PROCESSOR_SECONDS", 0.5)
    (tmp_path / "a.rtf").write_bytes(rb"{\rtf1 " + rb"{\field{\*\fldinst{" * 100_000 + b"}")
    (tmp_path / "b.rtf").write_bytes(RTF)
    documents, log = read(tmp_path)
    assert reasons(log) == [("a.rtf", bounded_process.TOO_SLOW)]
    assert [document.text for document in documents] == [READ["rtf"][1]]


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("odt", lambda: odt("<text:p>x</text:p>" * 1_600_000), bounded_process.TOO_LARGE),
        ("pdf", lambda: pdf_bomb(400), "damaged PDF"),
    ],
)
def test_a_document_that_fills_the_memory_is_one_skip(
    tmp_path: Path, fresh: pytest.MonkeyPatch, kind: str, data: Callable[[], bytes], reason: str
):
    fresh.setattr(bounded_process, "_MEMORY", 350 << 20)
    fresh.setattr(bounded_process, "_TIMES", 0)
    (tmp_path / f"a.{kind}").write_bytes(data())
    (tmp_path / f"b.{kind}").write_bytes(READ[kind][0])
    documents, log = read(tmp_path, max_expansion=100_000)
    assert reasons(log) == [(f"a.{kind}", reason)]
    assert [document.text for document in documents] == [READ[kind][1]]


def test_an_interruption_of_the_whole_group_costs_no_document(tmp_path: Path, fresh: pytest.MonkeyPatch):
    """Ctrl-C reaches every process of a terminal: what is interrupted decides itself whether it finishes its shard."""
    assert read_one(tmp_path, "a.rtf", RTF) == ([READ["rtf"][1]], [])
    process = bounded_process._process
    assert process
    for interruption in (signal.SIGINT, signal.SIGTERM):
        os.kill(process._popen.pid, interruption)
        assert read_one(tmp_path, "a.rtf", RTF) == ([READ["rtf"][1]], [])
    assert bounded_process._process is process


def test_a_reader_that_was_killed_is_started_again(tmp_path: Path, fresh: pytest.MonkeyPatch):
    assert read_one(tmp_path, "a.rtf", RTF) == ([READ["rtf"][1]], [])
    process = bounded_process._process
    assert process
    os.kill(process._popen.pid, signal.SIGKILL)
    assert read_one(tmp_path, "a.rtf", RTF) == ([READ["rtf"][1]], [])
    assert bounded_process._process is not process


@pytest.mark.parametrize("kind", NEEDED_PACKAGES)
def test_a_missing_extra_is_named_before_any_work(tmp_path: Path, kind: str, monkeypatch, caplog):
    """Alone in a corpus the file is refused; beside others it is warned of, counted, and read once the extra is there."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / f"a.{kind}").write_bytes(READ[kind][0])
    home = Home(tmp_path / "home")
    sentence = (
        rf"1 file of the corpus \S+ \(\.{kind}\) cannot be read: run pip install 'leanpipe\[documents\]'"
    )
    with monkeypatch.context() as without:
        without.setitem(sys.modules, NEEDED_PACKAGES[kind], None)
        for place in (folder, folder / f"a.{kind}"):
            with pytest.raises(UserError, match=sentence):
                check_corpus([str(place)])
        (folder / "b.txt").write_text("words")
        caplog.clear()
        (listed,) = resolve_corpus((str(folder),), home)
        assert [re.search(sentence, one.getMessage()) is not None for one in caplog.records] == [True]
        skipped = FileIndex.load(listed.path).skipped
        assert [(one.source, one.reason) for one in skipped] == [(f"a.{kind}", NEEDS_EXTRA)]
    caplog.clear()
    (again,) = resolve_corpus((str(folder),), home)
    assert again.digest != listed.digest and not caplog.records
    assert not FileIndex.load(again.path).skipped
    with monkeypatch.context() as without:  # a machine of the cluster may lack what the one that lists has
        without.setitem(sys.modules, NEEDED_PACKAGES[kind], None)
        log = ReadLog()
        files = FileIndex.load(again.path).files
        assert [one.text for file in files for one in read_file(file, log, ReadConfig())] == ["words"]
        assert reasons(log) == [(f"a.{kind}", NEEDS_EXTRA)]
