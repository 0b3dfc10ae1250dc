"""Books (.epub): their chapters in the order in which they are read, without the table of contents."""

import posixpath
import re
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from leanpipe.corpus.readers.documents.limits import Limits
from leanpipe.corpus.readers.documents.markup import text_of_markup
from leanpipe.corpus.readers.documents.zip_members import ZipMembers
from leanpipe.corpus.readers.encodings import decode
from leanpipe.corpus.readers.unpack import BadFile

_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
# XML lets every element close itself. An HTML parser would take all that follows for the content of these.
_CLOSED_AT_ONCE = re.compile(
    r"<((?:[a-z]+:)?(?:title|script|style|textarea|iframe|noscript|a|p|div|span|i|b|em|strong))(\s[^<>]*)?/>",
    re.IGNORECASE,
)


def text_of_epub(data: bytes, limits: Limits) -> str:
    """Find the text of a book."""
    members = ZipMembers(data, "EPUB", limits)
    chapters = list(dict.fromkeys(_chapters(members)))
    if _ENCRYPTION in members.names() and _encrypted(members) & set(chapters):
        raise BadFile("encrypted")
    if not chapters:
        raise BadFile("damaged EPUB", "it names no chapters")
    texts = (text_of_markup(_as_html(members.read(name))) for name in chapters)
    return "\n\n".join(text for text in texts if text.strip())


def _chapters(members: ZipMembers) -> Iterator[str]:
    """Names of the members that are read, in order (EPUB 3.3, section 5: manifest and spine)."""
    package = _first_attribute(members.read_xml(_CONTAINER), "rootfile", "full-path")
    if not package:
        raise BadFile("damaged EPUB", "it names no package")
    opf = members.read_xml(package)
    items = {item.get("id"): item for item in _named(opf, "item")}
    for reference in _named(opf, "itemref"):
        item = items.get(reference.get("idref"))
        if item is None or "nav" in (item.get("properties") or "").split():
            continue
        if (item.get("media-type") or "").strip().lower() in _PAGES:
            path = unquote((item.get("href") or "").partition("#")[0])
            yield posixpath.normpath(posixpath.join(posixpath.dirname(package), path))


def _encrypted(members: ZipMembers) -> set[str]:
    """Names of the encrypted members: often only fonts are."""
    references = _named(members.read_xml(_ENCRYPTION), "CipherReference")
    return {posixpath.normpath(unquote(one.get("URI") or "")) for one in references}


def _as_html(data: bytes) -> str:
    return _CLOSED_AT_ONCE.sub(r"<\1\2></\1>", decode(data, html=True).text)


def _named(element: Element, name: str) -> Iterator[Element]:
    """All elements of that name, whatever its namespace."""
    return (one for one in element.iter() if isinstance(one.tag, str) and one.tag.rpartition("}")[2] == name)


def _first_attribute(element: Element, name: str, attribute: str) -> str | None:
    return next((value for one in _named(element, name) if (value := one.get(attribute))), None)
