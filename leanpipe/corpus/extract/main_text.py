"""HTML to the text that a reader of the page would read, and a second try where the first parser loses it.

Why `blocks` is the default: benchmarks/extraction.py measures all of them. It is a cascade: pages that carry little beside their
text, as those of manuals do, go through rules (`html_blocks`), which are right there and three times as fast; all others go through
a small network (`content_model`).
"""

import re
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Literal, NamedTuple

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.corpus.document import Fault
from leanpipe.corpus.extract import html_blocks
from leanpipe.corpus.extract.content_model import load_model
from leanpipe.corpus.extract.html_page import HtmlPage
from leanpipe.corpus.extract.xhtml import close_empty_elements

Method = Literal["blocks", "resiliparse", "selectolax", "trafilatura"]

_FURNITURE = re.compile("<(?:script|meta|img)")
_LITTLE_FURNITURE = 15
"""A page with more of these is one of the web. Of 34 manuals 2 % of the pages have more, of 502 pages of the web 98 %."""
_DEEPEST = 1000  # elements within each other; resiliparse's rules and selectolax take quadratic time in it
_NESTS = re.compile(
    r"<(/?)(?!(?:area|base|br|col|dd|dt|embed|hr|img|input|li|link|meta|option|p|param|source|t[dhr]|track|wbr)[\s/>])[a-z]",
    re.IGNORECASE,
)


class ExtractConfig(StageConfig):
    """How the text of a web page is found."""

    method: Method = "blocks"
    """blocks: leanpipe's own rules for manuals and model for pages of the web (fast, and best in our measurements);
    resiliparse: its main-content rules (Bevendorff et al. 2018); trafilatura: its rules (Barbaresi 2021; many times
    slower); selectolax: all visible text, menus included."""
    tables: bool = True
    """Whether tables are part of the text. (selectolax keeps them always.)"""
    comments: bool = False
    """Whether readers' comments under an article are part of its text. (selectolax keeps them always.)"""
    min_share: float = Field(0.01, ge=0, le=1)
    """Share of a page's visible text that the method must find; if it finds less, the next one is asked: blocks, then
    all visible text. Parsers lose pages in silence: lxml, and so trafilatura, gives nothing of one nested 255 deep."""
    max_characters: int = Field(10_000_000, ge=1000, le=200_000_000)
    """Longest page that is read, in characters of HTML; a longer one is dropped, for its tree could fill the memory."""


class Extracted(NamedTuple):
    """What was found on a page."""

    text: str
    parser: str
    """Which method found it: the chosen one, blocks, or everything (all visible text)."""
    rescued: bool = False
    """Whether the chosen method found less than the page must hold, so that another was asked."""
    fault: Fault | None = None
    """Why nothing was found where there is something to be found. A page without any text has no fault, and no text."""
    unsure: bool = False
    """Whether much of the page may be its own text as well as not, as far as blocks can tell."""


class _Found(NamedTuple):
    text: str
    most: int
    """About how much text the page can hold, at most."""
    unsure: bool = False


def extract_main_text(html: str, config: ExtractConfig) -> Extracted:
    """Find a page's text: paragraphs apart, code indented, cells parted by bars.

    No parser is given a page that would break it: time grows with the page's length alone.

    Raises UserError if the method's package is not installed.
    """
    if len(html) > config.max_characters:
        return Extracted("", config.method, fault=Fault("extract.max_characters", len(html)))
    try:
        return _extract(close_empty_elements(html), config)
    except (
        UnicodeEncodeError
    ):  # of halves of pairs; to look for them first would be to encode every page once more
        return _extract(close_empty_elements(_encodable(html)), config)


def _extract(html: str, config: ExtractConfig) -> Extracted:
    found = PARSERS[config.method](html, config)
    if len(found.text) > config.min_share * found.most:
        return Extracted(found.text, config.method, unsure=found.unsure)
    return _second_try(found.text, html, config)._replace(unsure=found.unsure)


def visible_text(html: str) -> str:
    """Find all that a reader would see, as `extract_main_text` lays it out: of documents whose every part is content."""
    return html_blocks.extract_text(body_of(_encodable(html)), _all_rules())


def _second_try(text: str, html: str, config: ExtractConfig) -> Extracted:
    """The first of the chosen method's `text`, that of blocks and all visible text that is not lost."""
    everything = html_blocks.extract_text(body_of(html), _all_rules())
    least = max(1, config.min_share * len(everything))
    if len(text) >= least:
        return Extracted(text, config.method)
    if not everything:
        fault = Fault("extract.nothing", len(html)) if _has_text(html) else None
        return Extracted("", "everything", fault=fault)
    text = _blocks(html, config).text if config.method != "blocks" else ""
    if len(text) >= least:
        return Extracted(text, "blocks", rescued=True)
    return Extracted(everything, "everything", rescued=True)


def _blocks(html: str, config: ExtractConfig) -> _Found:
    if is_plain(html):
        return _Found(
            html_blocks.extract_text(body_of(html), _rules(config.comments, config.tables)), len(html)
        )
    page = HtmlPage(body_of(html), tables=config.tables)
    own = load_model().find_own_blocks(page, comments=config.comments)
    return _Found(page.render(own.blocks), 2 * page.length, own.unsure)


def is_plain(html: str) -> bool:
    """Whether a page carries little beside its text, as those of manuals do: few scripts, metadata and pictures."""
    return len([*islice(_FURNITURE.finditer(html), _LITTLE_FURNITURE + 1)]) <= _LITTLE_FURNITURE


@cache
def _rules(comments: bool, tables: bool) -> html_blocks.TagRules:
    return html_blocks.TagRules(comments=comments, tables=tables)


@cache
def _all_rules() -> html_blocks.TagRules:
    return html_blocks.TagRules(everything=True)


def body_of(html: str) -> str:
    """Parse a page with resiliparse, and return the body as it repairs it. Its time is linear even in elements nested 100,000 deep."""
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    body = tree.body.html if tree.body else ""
    return body or (tree.document.html if tree.document else "")  # a page of frames has no body


def _resiliparse(html: str, config: ExtractConfig) -> _Found:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    if _is_deep(html):
        return _Found("", len(html))
    text = extract_plain_text(
        HTMLTree.parse(html),  # of a tree it takes half the time that it takes of a string
        preserve_formatting=True,
        main_content=True,
        alt_texts=False,
        comments=config.comments,
        post_meta=False,
        skip_elements=None if config.tables else ["table"],
    )
    return _Found(text.strip("\n"), len(html))


def _selectolax(html: str, _: ExtractConfig) -> _Found:
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ModuleNotFoundError:
        raise _missing("selectolax") from None
    if _is_deep(html):
        return _Found("", len(html))
    tree = LexborHTMLParser(_encodable(html))
    root = tree.body or tree.root
    text = html_blocks.extract_text(root.html or "", _all_rules()) if root else ""
    return _Found(text, len(html))


def _trafilatura(html: str, config: ExtractConfig) -> _Found:
    try:
        import trafilatura
    except ModuleNotFoundError:
        raise _missing("trafilatura") from None
    if _is_deep(html):
        return _Found("", len(html))
    text = (
        trafilatura.extract(_encodable(html), include_comments=config.comments, include_tables=config.tables)
        or ""
    )
    return _Found(text.strip(), len(html))


PARSERS: dict[str, Callable[[str, ExtractConfig], _Found]] = {
    "blocks": _blocks,
    "resiliparse": _resiliparse,
    "selectolax": _selectolax,
    "trafilatura": _trafilatura,
}


def _missing(package: str) -> UserError:
    return UserError(
        f"clean.extract.method is {package}, which is not installed: run pip install 'leanpipe[{package}]', "
        "or set the method to blocks"
    )


def _encodable(html: str) -> str:
    """Halves of surrogate pairs joined, those that stand alone replaced: no parser takes them."""
    try:
        html.encode()
    except (
        UnicodeEncodeError
    ):  # of halves of pairs; to look for them first would be to encode every page once more
        return html.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return html


def _has_text(html: str) -> bool:
    """Whether letters stand between tags, as a page reads that no parser took for one."""
    html = html.lower()
    for start, end in (("<!--", "-->"), ("<script", "</script"), ("<style", "</style")):
        first, *others = html.split(start)
        html = first + "".join(other.partition(end)[2] for other in others)
    return bool(re.search(r"\w", re.sub("<[^>]*>?", " ", html)))


def _is_deep(html: str) -> bool:
    """Whether elements may be nested deeper than `_DEEPEST`, tags that need no end tag left out."""
    if html.count("<") <= _DEEPEST:
        return False
    depth = 0
    for end in _NESTS.findall(html):
        depth += -1 if end and depth else not end
        if depth > _DEEPEST:
            return True
    return False
