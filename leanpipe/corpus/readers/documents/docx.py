"""Word documents (.docx), by mammoth: headings, lists, tables, notes and text boxes, as they stand in the document.

mammoth follows what python-docx passes over: content controls, insertions, text boxes, notes (mammoth 1.13.0, python-docx 1.2.0).
Headers, footers, comments and deletions are left out.
"""

import io
import re

from leanpipe.corpus.readers.documents.limits import Limits
from leanpipe.corpus.readers.documents.markup import text_of_markup
from leanpipe.corpus.readers.documents.zip_members import ZipMembers, forbid_entities
from leanpipe.corpus.readers.unpack import BadFile

_BACK_TO_NOTE = re.compile(r'<a href="#(?:foot|end)note-ref-[^"]*">↑</a>')
_NOTE_MARK = re.compile(r"<sup>(<a [^>]*>\[\d+\]</a>)</sup>")


def text_of_docx(data: bytes, limits: Limits) -> str:
    """Find the text of a Word document."""
    import mammoth

    members = ZipMembers(data, "DOCX", limits)
    for name in members.names():
        # mammoth reads these alone: pictures are not unpacked.
        if name.lower().endswith((".xml", ".rels")):
            _check_xml(name, members.read(name))
    html = mammoth.convert_to_html(
        io.BytesIO(data), convert_image=lambda image: [], include_embedded_style_map=False
    ).value
    return text_of_markup(_NOTE_MARK.sub(r"\1", _BACK_TO_NOTE.sub("", html)))


def _check_xml(name: str, data: bytes) -> None:
    try:
        forbid_entities(data)
    except ValueError as error:
        raise BadFile("damaged DOCX", f"{name}: {error}") from error
