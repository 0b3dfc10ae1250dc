"""The blocks of a web page as arrays: text that a browser shows on lines of its own, and where among the page's tags it stands.

Nothing here takes more than linear time in the page's length, however deep its elements lie within each other. Sums over tags
have one place more than there are tags, and begin with 0: what lies from one tag up to another is the difference of two places.
"""

import re
from bisect import bisect_left
from functools import cache, cached_property

import numpy as np

from leanpipe.corpus.extract.tags import BREAK, CODE, SILENT, UNREAD, Break, Numbers, Tags, read_tags

_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&nbsp;", "\u00a0"), ("&amp;", "&"))  # all that parsers write
_BLANK = re.compile(rb"(?:&nbsp;|[\0\s])*")
_LINE_END = b"\0"  # within a block: no parser lets this character through
_EDGE = b" \0"
_CELL = b" | "
_LINE_BREAK, _ITEM = CODE["br"], CODE["li"]

# What a character is, as a number of three bits.
SPACE, STOP, COMMA, DIGIT, CAPITAL, SIGN, FOREIGN, OTHER = range(8)
_KINDS = bytearray([OTHER] * 256)
for _kind, _characters in {
    SPACE: b" \t\n\r\f\0", STOP: b".!?", COMMA: b",;", DIGIT: b"0123456789",
    CAPITAL: b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", SIGN: b"|/&<>#*+=@_\\{}[]:", FOREIGN: bytes(range(128, 256)),
}.items():  # fmt: skip
    for _character in _characters:
        _KINDS[_character] = _kind

# In how many elements of three kinds a text stands is counted in one number, with room for each.
_ROOM = 20
_MOST = (1 << _ROOM) - 1
_MIDDLE = 1 << (_ROOM - 1)  # what a count begins with: a page may end more than it begins
_START = sum(_MIDDLE << shift for shift in (0, _ROOM, 2 * _ROOM))


@cache
def _depths(tables: bool) -> Numbers:
    """What an element of each code adds: to the elements that nobody sees, to links, and to text of which white space counts."""
    depths = (SILENT | UNREAD).astype(np.int64)
    if not tables:
        depths[CODE["table"]] = 1
    depths[CODE["a"]] += 1 << _ROOM
    depths[CODE["pre"]] += 1 << 2 * _ROOM
    return depths


class HtmlPage:
    """A page's tags, its text, and the blocks of its text.

    `body` is what a parser wrote of its tree: well nested, `<` and `>` escaped in attributes too.
    """

    def __init__(self, body: str, *, tables: bool = True):
        self.data = body.encode()
        self.tags: Tags = read_tags(self.data)
        inside = (_depths(tables)[self.tags.code] * self.tags.delta).cumsum() + _START
        self._silent = inside & _MOST > _MIDDLE
        self._pre = inside >> 2 * _ROOM > _MIDDLE

        # The text after each tag that is seen by a reader, in one piece.
        lengths = self.tags.until - self.tags.end
        lengths[self._silent] = 0
        self.text_end: Numbers = np.zeros(len(lengths) + 1, dtype=np.int64)
        lengths.cumsum(out=self.text_end[1:])
        places = (self.tags.end - self.text_end[:-1]).repeat(lengths)
        places += np.arange(len(places))
        self.text = np.frombuffer(self.data, dtype=np.uint8)[places].tobytes()
        """All pieces, one after the other."""
        self.kinds: Numbers = np.frombuffer(self.text.translate(_KINDS), dtype=np.uint8)
        """What each of its characters is."""
        self.visible_at: Numbers = np.zeros(len(places) + 1, dtype=np.int32)
        """How many characters that are no spaces stand before each."""
        (self.kinds != SPACE).astype(np.int32).cumsum(out=self.visible_at[1:])
        self.visible = self.visible_at[self.text_end]
        """How many characters that are no spaces stand before the end of the text after each tag."""
        self.linked: Numbers = np.zeros(len(lengths) + 1, dtype=np.int32)
        """How many of these are links."""
        own = (self.visible[1:] - self.visible[:-1]) * (inside >> _ROOM & _MOST > _MIDDLE)
        own.cumsum(out=self.linked[1:])

        # Blocks: from one tag that parts text to the next.
        self.breaks = BREAK[self.tags.code]
        self.breaks[self._empty_lines()] = Break.PARAGRAPH
        self.breaks[self._silent] = Break.NONE
        self.breaks[:1] = Break.PARAGRAPH
        first = self.breaks.nonzero()[0]
        until = np.concatenate([first[1:], [len(self.breaks)]])
        filled = self.visible[until] > self.visible[first]
        self.first_tag, self.until_tag = first[filled], until[filled]

    def __len__(self) -> int:
        return len(self.first_tag)

    @property
    def length(self) -> int:
        """How many characters that are no spaces a reader sees."""
        return int(self.visible[-1])

    def within(self, sums: Numbers) -> Numbers:
        """Count what the text of each block added to `sums`."""
        return sums[..., self.until_tag] - sums[..., self.first_tag]

    def _empty_lines(self) -> Numbers:
        """The line breaks that follow another, with no text between them."""
        breaks = (self.tags.code == _LINE_BREAK).nonzero()[0]
        second = breaks[1:][breaks[1:] - breaks[:-1] == 1]
        nothing = self.visible[second] == self.visible[second - 1]
        return second[nothing & ~self._pre[second]]

    @cached_property
    def items(self) -> Numbers:
        """Whether a block is the first of an item of a list."""
        begun = (self.tags.code == _ITEM) * self.tags.delta
        begun = (begun.nonzero()[0], begun[begun.nonzero()[0]])
        last = begun[0].searchsorted(self.first_tag, "right") - 1
        before = np.concatenate([[-1], self.until_tag[:-1] - 1])
        if not len(begun[0]):
            return np.zeros(len(self), dtype=bool)
        return (last >= 0) & (begun[0][last] > before) & (begun[1][last] > 0)

    @property
    def rows(self) -> Numbers:
        """Whether a block is a row of a table: two cells or more."""
        cells = self._cells.nonzero()[0]
        return cells.searchsorted(self.until_tag) - cells.searchsorted(self.first_tag) > 1

    @cached_property
    def _cells(self) -> Numbers:
        """Whether a tag begins a cell of a table."""
        code = self.tags.code
        return ((code == CODE["td"]) | (code == CODE["th"])) & (self.tags.delta > 0)

    def render(self, kept: Numbers) -> str:
        """The blocks with such numbers as plain text."""
        if not len(kept):
            return ""
        gaps, items = self._gaps(kept), self.items[kept].tolist()
        first, until = self.first_tag[kept], self.until_tag[kept]
        places = (first, until, self.text_end[first], self.text_end[until], self._pre[first])
        pieces: list[bytes] = []
        for gap, item, *block in zip(gaps, items, *(one.tolist() for one in places), strict=True):
            if piece := self._piece(*block):
                pieces += (b"\n" * gap, b"- ", piece) if item else (b"\n" * gap, piece)
        text = b"".join(pieces).decode()
        text = re.sub(" ?\0 ?", "\n", text) if "\0" in text else text
        if "&" in text:
            for entity, character in _ENTITIES:
                text = text.replace(entity, character)
        return text.strip("\n")

    def render_all(self) -> str:
        """All blocks as plain text."""
        return self.render(np.arange(len(self)))

    def _gaps(self, kept: Numbers) -> list[int]:
        """How many line ends part each of such blocks from the one before. What stands between an item's dot and its text parts nothing."""
        paragraphs = (self.breaks == Break.PARAGRAPH).cumsum()
        starts = ((self.tags.code == _ITEM) & (self.tags.delta > 0)).nonzero()[0]
        until = self.first_tag[kept]
        items = self.items[kept]
        until[items] = starts[starts.searchsorted(until[items], "right") - 1]
        before = np.concatenate([[0], self.until_tag[kept][:-1] - 1])
        return (1 + (paragraphs[until] > paragraphs[before])).tolist()

    @cached_property
    def _marks(self) -> tuple[list[int], list[int], list[bool]]:
        """The tags that mean something within a block: their numbers, where in the text they stand, and whether they are cells."""
        special = self._cells | (self.tags.code == _LINE_BREAK)
        special &= ~self._silent
        marks = special.nonzero()[0]
        return marks.tolist(), self.text_end[marks].tolist(), self._cells[marks].tolist()

    def _piece(self, first: int, until: int, start: int, end: int, pre: bool) -> bytes:
        """The text of the tags from `first` up to `until`, which stands from `start` to `end`."""
        marks, _, _ = self._marks
        text = self.text[start:end]
        mark = bisect_left(marks, first)
        if mark < len(marks) and marks[mark] < until:
            text = self._with_marks(text, start, mark, bisect_left(marks, until, mark), pre)
        text = text.strip(b"\n") if pre else b" ".join(text.split()).strip(_EDGE)
        return b"" if _BLANK.fullmatch(text, 0, 200) else text

    def _with_marks(self, text: bytes, start: int, mark: int, until: int, pre: bool) -> bytes:
        _, places, cells = self._marks
        parts: list[bytes] = []
        last = 0
        for at, cell in zip(places[mark:until], cells[mark:until], strict=True):
            parts.append(text[last : at - start])
            last = at - start
            if not cell:
                parts.append(b"\n" if pre else _LINE_END)
            elif any(parts):
                parts.append(_CELL)
        parts.append(text[last:])
        return b"".join(parts)
