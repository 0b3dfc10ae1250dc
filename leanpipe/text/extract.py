"""HTML to the text that a reader of the page would read."""

from typing import Literal, NamedTuple

from leanpipe.config import StageConfig


class ExtractConfig(StageConfig):
    """How the main text of web pages is found."""

    method: Literal["resiliparse"] = "resiliparse"
    """Which."""


class Extracted(NamedTuple):
    text: str
    lost: bool = False


def main_text(html: str, config: ExtractConfig) -> Extracted:
    """The page's main content as plain text, without navigation, scripts and comments; paragraphs stay apart.

    Resiliparse's heuristics (Bevendorff et al. 2018, "Elastic ChatNoir"). A page in which they see no main content at
    all gives all its visible text.
    """
    from resiliparse.extract.html2text import extract_plain_text

    main = extract_plain_text(html, main_content=True, alt_texts=False, comments=False, post_meta=False)
    return Extracted(main if main.strip() else extract_plain_text(html, alt_texts=False))
