"""One spelling for one text: wrong decodings undone, Unicode composed, invisible characters and loose ends removed.

Indentation, tabs and runs of spaces inside a line stay, for they carry meaning in code and tables; so do joiners,
full-width forms, ligatures and typographic quotes, which belong to their languages.
"""

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ftfy

_LINE_ENDS = re.compile("\r\n|[\r\f\v\x1c-\x1e\x85\u2028\u2029]")
# Control characters but tab and newline; soft hyphens, the byte order mark, and the marks that embed writing directions.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
_TRAILING = re.compile(
    "(?<![ \t])[ \t]+$", re.MULTILINE
)  # the look-behind keeps it linear on long runs of spaces
_GAPS = re.compile("\n{4,}")


def normalise(text: str) -> str:
    """`text` in NFC with mojibake repaired, plain line ends and spaces, and at most two empty lines in a row."""
    if not text.isascii():
        text = _repair(text)
    text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    text = _TRAILING.sub("", _SPACES.sub(" ", text))
    return unicodedata.normalize("NFC", _GAPS.sub("\n\n\n", text)).strip("\n")


def _repair(text: str) -> str:
    import ftfy

    return ftfy.fix_text(text, _ftfy_config())


@cache
def _ftfy_config() -> "ftfy.TextFixerConfig":
    """Repairs what a wrong decoding broke (Speer 2019, "ftfy"), and touches nothing that an author may have meant."""
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        remove_terminal_escapes=False,
        normalization=None,
        explain=False,
    )
