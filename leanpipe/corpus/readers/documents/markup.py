"""Documents that come as HTML to their text: unlike a web page, all of it is content."""

import re

from leanpipe.corpus.extract.main_text import visible_text

_CELL = re.compile(r"(<t[dh]\b[^>]*>)\s*<p[^>]*>|</p>\s*(?=</t[dh]>)")


def text_of_markup(html: str) -> str:
    """Find all of the text. A cell that is one paragraph stands in the line of its row."""
    return visible_text(_CELL.sub(r"\1", html))
