"""XHTML, as parsers of HTML must be given it: there `<title/>` does not end, and takes the whole page for its text."""

import re

_ATTRIBUTES = r"""((?:\s++[^\s"'<>/=]++(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'))?+)*+)\s*+/>"""
# What stands in these elements is text up to their end tag, whatever it looks like. Most tags of a page begin with other letters,
# and are passed over by one look ahead.
_RAW = re.compile(
    r"<(?=[tsixn])(title|script|style|textarea|iframe|xmp|noembed|noframes|noscript)" + _ATTRIBUTES,
    re.IGNORECASE,
)
_ANY = re.compile(r"<([A-Za-z][\w.:-]*)" + _ATTRIBUTES)
# A tag that ends so, found in one pass; whether it does so rightly is asked of the few that are not void.
_LIKELY = re.compile(r"<([A-Za-z][\w.:-]*+)[^<>]*+>(?<=/>)")
_VOID = frozenset(
    [
        "area",
        "base",
        "basefont",
        "br",
        "col",
        "embed",
        "frame",
        "hr",
        "img",
        "input",
        "keygen",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    ]
)
_IS_XML = re.compile(r"\ufeff?\s*<\?xml\s", re.IGNORECASE)


def close_empty_elements(html: str) -> str:
    """Write an end tag behind each element that closes itself, where a parser of HTML would look for one in vain.

    In a page that calls itself XML that is every element that is not void; in others those of raw text, if their next end
    tag belongs to another one.
    """
    if "/>" not in html:
        return html
    if _IS_XML.match(html):
        return _LIKELY.sub(_closed_if_it_closes_itself, html)
    return _RAW.sub(lambda found: found[0] if _ends_later(found) else _closed(found), html)


def _closed_if_it_closes_itself(likely: re.Match[str]) -> str:
    found = None if likely[1].lower() in _VOID else _ANY.fullmatch(likely[0])
    return _closed(found) if found else likely[0]


def _closed(found: re.Match[str]) -> str:
    return f"<{found[1]}{found[2]}></{found[1]}>"


def _ends_later(found: re.Match[str]) -> bool:
    """Whether an end tag of that name comes before the next start tag."""
    following = re.compile(rf"<(/?){found[1]}[\s>/]", re.IGNORECASE).search(found.string, found.end())
    return bool(following and following[1])
