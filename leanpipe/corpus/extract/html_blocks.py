"""The blocks of a web page: text that a browser shows on lines of its own, and where among the page's elements it stands.

The page is a list of tags and of the text after each, as arrays; nothing here takes more than linear time in the page's
length, however deep its elements lie within each other.
"""

import re
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanpipe.corpus.extract.tags import BREAK, CODE, SILENT, UNREAD, Break, Tags, read_tags

Numbers = NDArray[Any]

_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&nbsp;", "\u00a0"), ("&amp;", "&"))  # all that parsers write
_BLANK = re.compile(rb"(?:&nbsp;|[\0\s])*")
_LINE_END = b"\0"  # within a block: no parser lets this character through
_EDGE = b" \0"
_CELL = b" | "
_LINK, _LINE_BREAK, _PRE, _ITEM = CODE["a"], CODE["br"], CODE["pre"], CODE["li"]

# What a character is.
_VISIBLE = np.ones(256, dtype=bool)
_VISIBLE[[*b" \t\n\r\f\0"]] = False


class HtmlPage:
    """A page's tags, its text, and the blocks of its text.

    `body` is what a parser wrote of its tree: well nested, `<` and `>` escaped in attributes too.
    """

    def __init__(self, body: str, *, tables: bool = True, everything: bool = False):
        self.data = body.encode()
        self.tags: Tags = read_tags(self.data)
        self._hidden = SILENT if everything else SILENT | UNREAD
        if not tables:
            self._hidden = self._hidden | (np.arange(len(SILENT)) == CODE["table"])

        # The text after each tag that is seen by a reader, in one piece.
        lengths = self.tags.until - self.tags.end
        lengths[self._silent] = 0
        self.text_end = lengths.cumsum()
        places = (self.tags.end - self.text_end + lengths).repeat(lengths)
        places += np.arange(len(places))
        self.text: Numbers = np.frombuffer(self.data, dtype=np.uint8)[places]
        """Bytes of all pieces, one after the other."""
        self.visible = np.append(0, _VISIBLE[self.text].cumsum())[self.text_end]
        """Of each tag: how many characters that are no spaces stand before the end of the text after it."""

        # Blocks: from one tag that parts text to the next.
        self.breaks = BREAK[self.tags.code].copy()
        self.breaks[self._empty_lines()] = Break.PARAGRAPH
        self.breaks[self._silent] = Break.NONE
        self.first_tag = np.append(0, np.flatnonzero(self.breaks[1:]) + 1)
        self.last_tag = np.append(self.first_tag[1:], len(self.breaks)) - 1
        filled = self.within(self.visible) > 0
        self.first_tag, self.last_tag = self.first_tag[filled], self.last_tag[filled]

    def within(self, sums: Numbers) -> Numbers:
        """Count what the text of each block added to `sums`."""
        return sums[self.last_tag] - np.where(self.first_tag > 0, sums[self.first_tag - 1], 0)

    def inside(self, *codes: int) -> Numbers:
        """Count in how many elements of such codes the text after each tag stands."""
        wanted = self.tags.code == codes[0]
        for code in codes[1:]:
            wanted |= self.tags.code == code
        return (wanted * self.tags.delta).cumsum()

    @cached_property
    def _silent(self) -> Numbers:
        hidden = self._hidden[self.tags.code]
        return (hidden * self.tags.delta).cumsum() > 0

    @cached_property
    def _pre(self) -> Numbers:
        return self.inside(_PRE) > 0

    @cached_property
    def linked(self) -> Numbers:
        """Count the characters of links before the end of the text after each tag."""
        own = np.diff(self.visible, prepend=0)
        return np.cumsum(np.where(self.inside(_LINK) > 0, own, 0))

    def _empty_lines(self) -> Numbers:
        """Whether a tag is a line break that follows another, with no text between them."""
        breaks = self.tags.code == _LINE_BREAK
        empty = np.zeros(len(breaks), dtype=bool)
        second = (breaks[1:] & breaks[:-1]).nonzero()[0] + 1
        nothing = self.visible[second - 1] == self.visible[np.maximum(second - 2, 0)]
        empty[second[nothing & ~self._pre[second]]] = True
        return empty

    @cached_property
    def items(self) -> Numbers:
        """Whether a block is the first of an item of a list."""
        begun, ended = (self._last(_ITEM, delta)[self.first_tag] for delta in (1, -1))
        before = np.append(-1, self.last_tag[:-1])
        return (begun > before) & (begun > ended)

    @property
    def rows(self) -> Numbers:
        """Whether a block is a row of a table: two cells or more."""
        return self.within(self._cells.cumsum()) > 1

    @cached_property
    def _cells(self) -> Numbers:
        """Whether a tag begins a cell of a table."""
        code = self.tags.code
        return ((code == CODE["td"]) | (code == CODE["th"])) & (self.tags.delta > 0)

    def _last(self, code: int, delta: int) -> Numbers:
        """Of each tag: the last one at or before it that begins, or ends, an element of a code; or -1."""
        wanted = (self.tags.code == code) & (self.tags.delta == delta)
        return np.maximum.accumulate(np.where(wanted, np.arange(len(wanted)), -1))

    def render(self, kept: Numbers) -> str:
        """The blocks with such numbers as plain text."""
        if not len(kept):
            return ""
        gaps = self._gaps(kept)
        items = self.items[kept].tolist()
        first, last = self.first_tag[kept].tolist(), self.last_tag[kept].tolist()
        parts = []
        for gap, item, start, end in zip(gaps, items, first, last, strict=True):
            if text := self._block(start, end):
                parts += (b"\n" * gap, b"- ", text) if item else (b"\n" * gap, text)
        text = b"".join(parts).decode()
        text = re.sub(" ?\0 ?", "\n", text) if "\0" in text else text
        if "&" in text:
            for entity, character in _ENTITIES:
                text = text.replace(entity, character)
        return text.strip("\n")

    def render_all(self) -> str:
        """All blocks as plain text."""
        return self.render(np.arange(len(self.first_tag)))

    def _gaps(self, kept: Numbers) -> list[int]:
        """How many line ends part each of such blocks from the one before. What stands between an item's dot and its text parts nothing."""
        paragraphs = np.cumsum(self.breaks == Break.PARAGRAPH)
        until = np.where(self.items, self._last(_ITEM, 1)[self.first_tag], self.first_tag)[kept]
        before = np.append(0, self.last_tag[kept][:-1])
        return (1 + (paragraphs[until] > paragraphs[before])).tolist()

    @cached_property
    def _pieces(self) -> tuple[list[int], list[int], list[int]]:
        """Of each tag: where the text after it begins and ends, and whether the tag means something within a block."""
        code = self.tags.code
        special = np.where(self._silent, -1, np.where(code == _LINE_BREAK, 1, 2 * self._cells))
        return self.tags.end.tolist(), self.tags.until.tolist(), special.tolist()

    def _block(self, first: int, last: int) -> bytes:
        data, (start, until, special) = self.data, self._pieces
        pre = self._pre[first]
        parts = []
        for tag in range(first, last + 1):
            meaning = special[tag]
            if meaning < 0:
                continue
            if meaning == 1:
                parts.append(b"\n" if pre else _LINE_END)
            elif meaning == 2 and any(parts):
                parts.append(_CELL)
            if start[tag] < until[tag]:
                parts.append(data[start[tag] : until[tag]])
        text = b"".join(parts)
        text = text.strip(b"\n") if pre else b" ".join(text.split()).strip(_EDGE)
        return b"" if _BLANK.fullmatch(text, 0, 200) else text
