"""Texts of LibreOffice and OpenOffice (.odt): their XML (OASIS OpenDocument 1.3) is as simple as HTML, and is turned into that.

Notes follow their paragraph. Comments, deletions, headers, footers and generated indexes are left out.
"""

import html
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from leanpipe.corpus.readers.documents.limits import Limits
from leanpipe.corpus.readers.documents.markup import text_of_markup
from leanpipe.corpus.readers.documents.zip_members import ZipMembers
from leanpipe.corpus.readers.unpack import BadFile

_TAGS = {
    **{"p": "p", "h": "h2", "list": "ul", "list-item": "li", "list-header": "li"},
    **{"table": "table", "table-row": "tr", "table-cell": "td", "note-body": "div"},
}
_LEFT_OUT = {
    *("tracked-changes", "annotation", "note-citation", "sequence-decls", "forms", "title", "desc", "event-listeners"),
    *("table-of-content", "illustration-index", "table-index", "object-index", "alphabetical-index", "user-index"),
    *("bibliography", "covered-table-cell", "soft-page-break", "object", "object-ole"),
}  # fmt: skip
_MOST_SPACES = 100
_BODY = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}body"


def text_of_odt(data: bytes, limits: Limits) -> str:
    """Find the text of an OpenDocument text."""
    members = ZipMembers(data, "ODT", limits)
    if "META-INF/manifest.xml" in members.names() and b"encryption-data" in members.read(
        "META-INF/manifest.xml"
    ):
        raise BadFile("encrypted")
    body = members.read_xml("content.xml").find(_BODY)
    if body is None:
        raise BadFile("damaged ODT", "its content.xml has no body")
    return text_of_markup(f"<body>{''.join(_html(body))}</body>")


def _html(element: Element) -> Iterator[str]:
    """The markup of what an element holds, and of itself, without what follows it."""
    name = element.tag.rpartition("}")[2]
    if name in _LEFT_OUT:
        return
    if name in ("line-break", "tab", "s"):
        yield {"line-break": "<br>", "tab": " "}.get(name) or "\u00a0" * _repeated(element)
        return
    tag = _TAGS.get(name)
    notes: list[Element] = []
    if tag:
        yield f"<{tag}>"
    yield html.escape(element.text or "", quote=False)
    for child in element:
        if child.tag.endswith("}note"):
            notes.append(child)  # within a paragraph: the note is a paragraph of its own, after it
        else:
            yield from _html(child)
        yield html.escape(child.tail or "", quote=False)
    if tag:
        yield f"</{tag}>"
    for note in notes:
        yield from _html(note)


def _repeated(element: Element) -> int:
    """How many spaces an `s` element stands for."""
    count = next((value for name, value in element.items() if name.endswith("}c")), "1")
    return min(int(count), _MOST_SPACES) if count.isdecimal() else 1
