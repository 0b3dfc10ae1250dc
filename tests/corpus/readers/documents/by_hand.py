"""Small documents, written by hand at the time of the test: the bytes that each format's standard asks for, and no more."""

import io
import json
import zipfile
import zlib
from collections.abc import Sequence

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for name in ("office", "text", "table", "draw")
)


def pdf(
    pages: Sequence[Sequence[str]], trailer: bytes = b"", content: bytes | None = None, extra: bytes = b""
) -> bytes:
    """A PDF 1.4 of these pages of lines in Helvetica; `content` stands in place of what draws each page."""
    kids = " ".join(f"{4 + 2 * at} 0 R" for at in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for at, lines in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * at} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(
            _stream(b"" if content is None else extra, _drawn(lines) if content is None else content)
        )
    out = io.BytesIO(b"")
    out.write(b"%PDF-1.4\n")
    places = []
    for number, one in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, one))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer\n<< /Size %d /Root 1 0 R %s >>\n" % (len(objects) + 1, trailer))
    out.write(b"startxref\n%d\n%%%%EOF\n" % start)
    return out.getvalue()


def pdf_with_password() -> bytes:
    """A PDF that opens with a password that nobody has (standard security handler, revision 2)."""
    encrypt = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<%s> <%s>]" % (
        *(b"5a" * 32, b"a5" * 32),
        *(b"00" * 16, b"00" * 16),
    )
    return pdf([["secret"]], trailer=encrypt)


def pdf_of_pictures(pages: int) -> bytes:
    """Pages of a gray square each, as a scanner makes them."""
    square = b"q 500 0 0 700 40 40 cm BI /W 2 /H 2 /CS /G /BPC 8 ID \x00\x7f\x7f\xff EI Q"
    return pdf([[]] * pages, content=square)


def pdf_bomb(megabytes: int) -> bytes:
    """A page whose content unfolds to so many megabytes."""
    packer = zlib.compressobj(1)
    part = b"0 0 m " * (1 << 20 // 6)
    packed = b"".join(packer.compress(part) for _ in range(megabytes * 10**6 // len(part)))
    return pdf([[]], content=packed + packer.flush(), extra=b"/Filter /FlateDecode")


def _drawn(lines: Sequence[str]) -> bytes:
    shown = "".join(f"({_escaped(line)}) Tj 0 -14 Td\n" for line in lines)
    return f"BT /F1 10 Tf 50 800 Td\n{shown}ET".encode("cp1252")


def _escaped(line: str) -> str:
    return line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def _stream(entries: bytes, data: bytes) -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), entries, data)


def zipped(members: dict[str, str | bytes]) -> bytes:
    """A ZIP archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def docx(body: str, doctype: str = "", more: dict[str, str | bytes] | None = None) -> bytes:
    """A Word document with that content of `w:body` (ECMA-376), and one footnote, number 1."""
    relations = f'<Relationships xmlns="{_RELATIONSHIPS}"><Relationship Id="r1" Type="{_OFFICE}/{{}}" Target="{{}}"/></Relationships>'
    note = f'<w:footnotes {W}><w:footnote w:id="1"><w:p><w:r><w:t>The note.</w:t></w:r></w:p></w:footnote></w:footnotes>'
    return zipped(
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="xml" ContentType="application/xml"/></Types>',
            "_rels/.rels": relations.format("officeDocument", "word/document.xml"),
            "word/_rels/document.xml.rels": relations.format("footnotes", "footnotes.xml"),
            "word/footnotes.xml": note,
            "word/document.xml": f"{doctype}<w:document {W}><w:body>{body}</w:body></w:document>",
        }
        | (more or {})
    )


def word(text: str, style: str = "") -> str:
    """A paragraph of Word."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def odt(text: str, doctype: str = "", manifest: str = "<manifest/>") -> bytes:
    """An OpenDocument text with that content of `office:text`."""
    content = f"<office:document-content {ODF}><office:body><office:text>{text}</office:text></office:body>"
    return zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": f"{doctype}{content}</office:document-content>",
            "META-INF/manifest.xml": manifest,
        }
    )


def epub(chapters: dict[str, str], order: Sequence[str] = (), encryption: str = "", nav: str = "") -> bytes:
    """A book (EPUB 3) with these pages, read in that order; `nav` is the page of the table of contents."""
    items = "".join(
        f'<item id="i{at}" href="{name}" media-type="application/xhtml+xml"{" properties=" + chr(34) + "nav" + chr(34) if name == nav else ""}/>'
        for at, name in enumerate(chapters)
    )
    names = list(chapters)
    spine = "".join(f'<itemref idref="i{names.index(name)}"/>' for name in order or chapters)
    package = f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    members: dict[str, str | bytes] = {"META-INF/container.xml": container, "OEBPS/book.opf": package}
    members |= {f"OEBPS/{name.replace('%20', ' ')}": page for name, page in chapters.items()}
    return zipped(members | ({"META-INF/encryption.xml": encryption} if encryption else {}))


def notebook(cells: Sequence[tuple[str, str | list[str]]], **more: object) -> bytes:
    """A notebook (nbformat 4) of (type, source) cells, each with an output."""
    made = [{"cell_type": kind, "source": source, "outputs": [{"text": "printed"}]} for kind, source in cells]
    return json.dumps({"nbformat": 4, "metadata": {}, "cells": made, **more}).encode()
