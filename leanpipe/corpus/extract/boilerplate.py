"""Which elements of a page are not its own text: by what they say that they are, and how much of them is links.

Lengths are bytes of UTF-8, in which a Chinese character weighs about as much as an English syllable.
"""

import re
from enum import IntEnum
from typing import NamedTuple

_SHORT = 200  # an element named as boilerplate goes if its text is shorter
_LINKED = 0.33  # … or if more of it than this is links (Kohlschütter et al. 2010, algorithm 2)
_FOOTER_SHORT = 1000
_FOOTER_LINKED = 0.1
_WHOLE = (
    2000  # unlinked bytes from which an element that holds most of the page so far stays whatever its name
)


class ElementRole(IntEnum):
    """What part of a page an element says that it is."""

    CONTENT = 0
    """Nothing in particular."""
    GONE = 1
    """Navigation, or hidden: never text of the page."""
    WEAK = 2
    """Something that may be a menu, and may be a note beside the text."""
    STRONG = 3
    """Something that is no text of the page unless it is long and has few links."""
    FOOTER = 4
    """What stands under the text of the page: its footer, and readers' comments."""
    MAIN = 5
    """The text of the page."""


class TextLength(NamedTuple):
    """How much text there is, and how much of it is links."""

    length: int
    linked: int

    @property
    def unlinked(self) -> int:
        """Length of the text that is not links."""
        return self.length - self.linked


_WEAK_NAMES = frozenset(b"header masthead sidebar sidebars rail banner widget widgets overlay aside".split())
_STRONG_NAMES = frozenset(
    b"nav navi navbar navigation navheader navfooter docnav subnav topnav sitenav globalnav menu menus submenu "
    b"breadcrumb breadcrumbs crumbs cookie cookies share sharing sharebar sharethis addthis social sociable related "
    b"recommended toolbar pager pagination login signin signup register searchbox searchform promo promos ad ads advert "
    b"adverts advertisement advertising sponsor sponsors sponsored popup modal newsletter subscribe respond trending "
    b"outbrain taboola skip editsection jump".split()
)
_FOOTER_NAMES = frozenset(b"footer foot copyright printfooter noprint catlinks".split())
_COMMENT_NAMES = frozenset(b"comments comment commentlist disqus".split())
_PLACES = frozenset(
    b"site page main top bottom left right global local primary secondary wrapper wrap container content bar box block "
    b"list links section area inner outer col column post article user".split()
)
"""What ids add to such names; an id with other words in it (SQL-COMMENT) is that of a section."""
_HIDDEN = re.compile(
    rb'display: ?none|visibility: ?hidden|(?:^| )hidden="|aria-hidden="true"|'
    rb'role="(?:navigation|search|dialog|alertdialog|menu|menubar|toolbar|contentinfo|banner)"'
)
_MARKED_MAIN = re.compile(rb'role="main"|itemprop="articleBody"')
_ID = re.compile(rb'(?:^| )id="([^"]*)"')
_CLASS = re.compile(rb'(?:^| )class="([^"]*)"')
_WORD = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+")
_SAYING = _WEAK_NAMES | _STRONG_NAMES | _FOOTER_NAMES | _COMMENT_NAMES | _PLACES


def classify_element(tag: bytes, attributes: bytes, *, comments: bool, tables: bool) -> ElementRole:
    """Tell the role of an element by its tag, role, class and id; `comments` and `tables` count as text if the user says so."""
    if tag in (b"nav", b"dialog", b"menu") or (tag == b"table" and not tables) or _HIDDEN.search(attributes):
        return ElementRole.GONE
    if tag == b"main" or _MARKED_MAIN.search(attributes):
        return ElementRole.MAIN
    words, of_id = _words(_CLASS, attributes), _words(_ID, attributes)
    words |= of_id if of_id <= _SAYING else frozenset()
    if tag == b"footer" or words & _FOOTER_NAMES or (not comments and words & _COMMENT_NAMES):
        return ElementRole.FOOTER
    if words & _STRONG_NAMES:
        return ElementRole.STRONG
    return ElementRole.WEAK if tag in (b"aside", b"header") or words & _WEAK_NAMES else ElementRole.CONTENT


def _words(name: re.Pattern[bytes], attributes: bytes) -> set[bytes]:
    found = name.search(attributes)
    return {word.lower() for word in _WORD.findall(found[1])} if found else set()


def is_boilerplate(nature: ElementRole, inside: TextLength, page: TextLength) -> bool:
    """Whether an element is left out, by the text in it and the text of the page up to its end."""
    if nature == ElementRole.GONE:
        return True
    if inside.unlinked > max(_WHOLE, page.unlinked / 2):
        return False
    if nature == ElementRole.FOOTER:
        return inside.length < _FOOTER_SHORT or inside.linked > _FOOTER_LINKED * inside.length
    is_short = nature == ElementRole.STRONG and inside.length < _SHORT
    return is_short or inside.linked > _LINKED * inside.length
