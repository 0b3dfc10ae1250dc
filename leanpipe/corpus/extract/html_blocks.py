"""Main text of a page by the shape of its blocks: leanpipe's own extraction, one pass over the tags in linear time.

A block is what a browser shows on lines of its own. Whole elements go that say that they are boilerplate (see
`boilerplate`). What then lies before the first and after the last good block goes by
maximum subsequence segmentation (Pasternack and Roth 2009, "Extracting Article Text from the Web with Maximum
Subsequence Segmentation"), with the link density of Kohlschütter et al. 2010 ("Boilerplate Detection using Shallow Text
Features") in place of a trained classifier.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from leanpipe.corpus.extract.boilerplate import ElementRole, TextLength, classify_element, is_boilerplate

_LEAST = 200  # unlinked bytes that trimming must leave, and …
_LEAST_SHARE = 0.7  # … of all: else the page is a list, and stays
_MAIN_SHARE = 0.3  # of the page's unlinked text that an element marked as main must hold to be believed
_BLOCK_COST = 10  # what a block must say to be worth having, and …
_LINK_COST = 3  # … what a byte of link takes away from it
_TRIM_LINKED = 0.1  # pages with fewer links than this have no menus left that would need trimming

_ATTRIBUTES = 300  # bytes of an element's attributes that are looked at
_REMEMBERED = 20_000  # tags
_BLANK = 100  # bytes of spaces and line ends that nobody writes
_COMMENT_END = b"-->"
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&nbsp;", "\u00a0"), ("&amp;", "&"))  # all that parsers write
_BREAK = b"\0"  # a line end within a block: no parser lets this character through


class HtmlBlock(NamedTuple):
    """Text that stands on lines of its own, as HTML escapes it."""

    text: bytes
    gap: int
    """How many line ends part it from the block before."""
    length: int
    linked: int
    """Bytes of `length` that are links."""
    heading: bool


class Page:
    """What of a page has been read so far: its blocks, and where among its elements the reader is."""

    __slots__ = (
        "_elements", "_gap", "_heading", "_item", "_length", "_link", "_linked", "_links", "_mains",
        "blocks", "parts", "pre",
    )  # fmt: skip

    def __init__(self) -> None:
        self.blocks: list[HtmlBlock] = []
        self.parts: list[bytes] = []
        self.pre = False
        self._elements: list[tuple[ElementRole, int, int, int] | None] = []
        self._mains: list[tuple[int, int, int]] = []
        self._length = self._linked = 0
        self._gap = 0
        self._links = 0  # bytes of the current block that are links
        self._link = -1  # the part at which the current link began
        self._item = self._heading = False

    def element(self) -> None:
        """Begin an element that says nothing of itself."""
        if self.parts:
            self._add()
        if not self._item:
            self._gap = 2
        self._elements.append(None)

    def saying(self, nature: ElementRole) -> None:
        """Begin an element that may go as a whole, by what it says it is, and note where the page stands."""
        self.paragraph()
        self._elements.append((nature, len(self.blocks), self._length, self._linked))

    def end_element(self) -> None:
        """End the innermost element, and leave it out if it is boilerplate."""
        if self.parts:
            self._add()
        if not self._item:
            self._gap = 2
        if element := self._elements.pop():
            self._judge(*element)

    def _judge(self, nature: ElementRole, first: int, length: int, linked: int) -> None:
        inside = TextLength(self._length - length, self._linked - linked)
        if nature == ElementRole.MAIN:
            self._mains.append((first, len(self.blocks), inside.unlinked))
        elif is_boilerplate(nature, inside, TextLength(self._length, self._linked)):
            del self.blocks[first:]
            while self._mains and self._mains[-1][1] > first:
                self._mains.pop()
            self._length, self._linked, self._gap = length, linked, 2

    def paragraph(self) -> None:
        """Begin a block that an empty line parts from the one before."""
        if self.parts:
            self._add()
        if not self._item:
            self._gap = 2

    def line(self) -> None:
        """Begin a block on a line of its own."""
        if self.parts:
            self._add()
        if not self._gap:
            self._gap = 1

    def item(self) -> None:
        """Begin an item of a list."""
        self.line()
        self._item = True

    def end_item(self) -> None:
        """End an item of a list."""
        self.line()
        self._item = False

    def heading(self) -> None:
        """Begin a heading."""
        self.paragraph()
        self._heading = True

    def end_heading(self) -> None:
        """End a heading."""
        self.paragraph()
        self._heading = False

    def preformatted(self) -> None:
        """Begin text of which white space counts."""
        self.paragraph()
        self.pre = True

    def end_preformatted(self) -> None:
        """End text of which white space counts."""
        self.paragraph()
        self.pre = False

    def cell(self) -> None:
        """Part a cell of a table from the one before."""
        if self.parts:
            self.parts.append(b" | ")

    def link(self) -> None:
        """Begin a link."""
        self._link = len(self.parts)

    def end_link(self) -> None:
        """End a link, and count its text."""
        if self._link >= 0:
            self._links += sum(map(len, self.parts[self._link :]))
            self._link = -1

    def line_break(self) -> None:
        """Begin a new line within the block."""
        self.parts.append(b"\n" if self.pre else _BREAK)

    def finish(self, trim: bool) -> None:
        """End the page: what is marked as its main part is all of it, and the ends are trimmed of the rest."""
        self.paragraph()
        if not trim:
            return
        marked = max(self._mains, key=lambda main: main[2], default=(0, 0, 0))
        if marked[2] > _MAIN_SHARE * (self._length - self._linked):
            self.blocks = self.blocks[marked[0] : marked[1]]
        elif self._linked > _TRIM_LINKED * self._length:
            self.blocks = _trimmed(self.blocks)

    def _add(self) -> None:
        parts = self.parts
        if self._link >= 0:
            self.end_link()
            self._link = 0
        text = b"".join(parts)
        text = text.strip(b"\n") if self.pre else b" ".join(text.split())
        parts.clear()
        length, linked, self._links = len(text), min(self._links, len(text)), 0
        if length < _BLANK and not text.replace(b"&nbsp;", b"").strip(b"\0 \t\n"):
            return
        shown = b"- " + text if self._item else text
        self.blocks.append(HtmlBlock(shown, self._gap, length, linked, self._heading))
        self._length += length
        self._linked += linked
        self._gap, self._item = 0, False


def _trimmed(blocks: list[HtmlBlock]) -> list[HtmlBlock]:
    """The run of blocks that says most (its headings with it), or all of them if much is said outside of it."""
    best, first, last, start, total = 0, 0, 0, 0, 0
    for position, block in enumerate(blocks):
        total += block.length - _LINK_COST * block.linked - _BLOCK_COST
        if total <= 0:
            total, start = 0, position + 1
        elif total > best:
            best, first, last = total, start, position + 1
    while first > 0 and blocks[first - 1].heading:
        first -= 1
    run = blocks[first:last]
    return run if _unlinked(run) >= max(_LEAST, _LEAST_SHARE * _unlinked(blocks)) else blocks


def _unlinked(blocks: Sequence[HtmlBlock]) -> int:
    return sum(block.length - block.linked for block in blocks)


Action = Callable[[Page], bytes | None]
"""What a tag does to the page; if it says which end tag, nothing is visible up to there."""

_STARTS: dict[Action, str] = {
    Page.paragraph: "p blockquote address figure figcaption fieldset hr tbody thead tfoot body",
    Page.line: "dt dd tr option caption summary legend center",
    Page.item: "li",
    Page.heading: "h1 h2 h3 h4 h5 h6",
    Page.preformatted: "pre",
    Page.cell: "td th",
    Page.link: "a",
    Page.line_break: "br",
}
_ENDS: dict[Action, Action] = {
    Page.paragraph: Page.paragraph,
    Page.line: Page.line,
    Page.item: Page.end_item,
    Page.heading: Page.end_heading,
    Page.preformatted: Page.end_preformatted,
    Page.link: Page.end_link,
}
_OF_TAG = {tag.encode(): action for action, tags in _STARTS.items() for tag in tags.split()}
_OF_TAG |= {b"/" + tag: _ENDS[action] for tag, action in _OF_TAG.items() if action in _ENDS}
_ELEMENTS = frozenset(
    b"div section article main aside header footer nav form ul ol dl table dialog menu details".split()
)
"""Tags whose element may go as a whole."""
_ELEMENT_ENDS = frozenset(b"/" + tag for tag in _ELEMENTS)
_RAW = frozenset(b"script style noembed iframe".split())
_SILENT = frozenset(b"head template svg object datalist canvas audio video".split())
_UNREAD = frozenset(b"noscript select textarea button noframes".split())
"""Elements that have text, but none of the page's own."""


def _opener(nature: ElementRole) -> Action:
    return lambda page: page.saying(nature)


def _silencer(tag: bytes) -> Action:
    return lambda page: b"/" + tag


def _comment(page: Page) -> bytes:
    return _COMMENT_END


_OPENERS = {ElementRole.CONTENT: Page.element} | {nature: _opener(nature) for nature in ElementRole if nature}


class TagRules(dict[bytes, Action | None]):
    """Tells what every tag does, by all that stands between its `<` and `>`; None does nothing.

    Most tags are seen many times, so what they do is remembered.
    """

    def __init__(self, *, comments: bool = False, tables: bool = True, everything: bool = False):
        super().__init__()
        self.everything = everything
        self._comments, self._tables = comments, tables

    def __missing__(self, tag: bytes) -> Action | None:
        if tag.startswith(b"a "):
            return Page.link
        name, _, attributes = tag.partition(b" ")
        action = self._action(name, attributes[:_ATTRIBUTES])
        if len(tag) <= _ATTRIBUTES and not tag.startswith(b"!"):
            if len(self) >= _REMEMBERED:
                self.clear()
            self[tag] = action
        return action

    def _action(self, tag: bytes, attributes: bytes) -> Action | None:
        if tag in _ELEMENTS:
            return _OPENERS[
                ElementRole.CONTENT
                if self.everything
                else classify_element(tag, attributes, comments=self._comments, tables=self._tables)
            ]
        if tag in _ELEMENT_ENDS:
            return Page.end_element
        if tag in _RAW or tag in _SILENT or (tag in _UNREAD and not self.everything):
            return _silencer(tag)
        return _comment if tag.startswith(b"!--") else _OF_TAG.get(tag)


def extract_text(body: str, rules: TagRules) -> str:
    """Return what `rules` let stay of a page's body, as plain text.

    The body is what a parser wrote of its tree: well nested, `<` and `>` escaped in attributes too.
    """
    page = _read(iter(body.encode().split(b"<")), rules)
    page.finish(trim=not rules.everything)
    return _render(page.blocks)


def _read(pieces: Iterator[bytes], rules: TagRules) -> Page:
    page = Page()
    parts = page.parts
    for piece in pieces:
        tag, _, text = piece.partition(b">")
        action = rules[tag]
        if action and (until := action(page)):
            text = _text_after(until, piece, pieces)
        if text and (parts or page.pre or not text.isspace()):
            parts.append(text)
    return page


def _text_after(until: bytes, piece: bytes, pieces: Iterator[bytes]) -> bytes:
    """What follows the end of a comment, or of an element that may have others of its kind within it."""
    if until == _COMMENT_END:
        return _text_after_comment(piece, pieces)
    tag = until[1:]
    depth = 1
    for piece in pieces:
        name, _, text = piece.partition(b">")
        name = name.partition(b" ")[0]
        if name == until:
            depth -= 1
            if not depth:
                return text
        elif tag not in _RAW:
            depth += name == tag
            if name.startswith(b"!--"):
                _text_after_comment(piece, pieces)
    return b""


def _text_after_comment(piece: bytes, pieces: Iterator[bytes]) -> bytes:
    for one in chain((piece,), pieces):
        _, found, text = one.partition(_COMMENT_END)
        if found:
            return text
    return b""


def _render(blocks: Sequence[HtmlBlock]) -> str:
    """The blocks as plain text."""
    text = b"".join(b"\n" * block.gap + block.text for block in blocks).decode()
    if _BREAK.decode() in text:
        text = re.sub(" ?\0 ?", "\n", text)
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text.strip("\n")
