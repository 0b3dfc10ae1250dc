"""One spelling for one text: wrong decodings undone, Unicode composed, invisible characters and loose ends removed.

Indentation, tabs and runs of spaces inside a line stay, for they carry meaning in code and tables; so do joiners,
full-width forms, ligatures and typographic quotes, which belong to their languages.

Almost every text needs none of it, so each step first asks, in one fast scan, whether there is anything to do.
"""

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ftfy

_LINE_ENDS = "\f\v\x1c-\x1e\x85\u2028\u2029"
# Control characters but tab and newline; soft hyphens, the byte order mark, and the marks that embed writing directions.
_INVISIBLE = "\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb"
_SPACES = "\u2000-\u200a\u202f\u205f"
_REPLACED = re.compile(f"[{_LINE_ENDS}{_INVISIBLE}{_SPACES}]")
_LINE_END = re.compile(f"[{_LINE_ENDS}]")
_SPACE = re.compile(f"[{_SPACES}]")
_GAPS = re.compile("\n{4,}")
_REACH = 6  # characters of the longest pattern by which ftfy tells mojibake


def normalize(text: str) -> str:
    """Return `text` in NFC with mojibake repaired, plain line ends and spaces, and at most two empty lines in a row."""
    if not text.isascii():
        text = _repair(text).replace("\u00a0", " ")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for character in set(_REPLACED.findall(text)):
        text = text.replace(character, _replacement(character))
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    if "\n\n\n\n" in text:
        text = _GAPS.sub("\n\n\n", text)
    return unicodedata.normalize("NFC", text).strip("\n")


def _replacement(character: str) -> str:
    if _LINE_END.match(character):
        return "\n"
    return " " if _SPACE.match(character) else ""


def _repair(text: str) -> str:
    """What ftfy makes of `text` (Speer 2019). It is asked only about the lines that it would change.

    ftfy leaves a line alone unless it has half of a surrogate pair or looks bad to `ftfy.badness`. Whatever looks bad has
    a character of `_clue` in it, so it is enough to look around those.
    """
    import ftfy
    from ftfy.badness import BADNESS_RE

    parts, done = [], 0
    for clue in _clue().finditer(text):
        at = clue.start()
        if at < done or not (
            clue[0] in "ÃÂ"  # looks bad at the start of a line, which a window does not show
            or "\ud800" <= clue[0] <= "\udfff"
            or BADNESS_RE.search(text, max(0, at - _REACH), at + _REACH)
        ):
            continue
        start, end = text.rfind("\n", done, at) + 1 or done, text.find("\n", at) + 1 or len(text)
        parts += [text[done:start], ftfy.fix_text(text[start:end], _ftfy_config())]
        done = end
    return "".join([*parts, text[done:]]) if parts else text


@cache
def _clue() -> re.Pattern[str]:
    """A character that all mojibake has: no lower-case letter, and next to another that occurs in mojibake. In linear time.

    The exceptions that ftfy makes: control characters, and œ, Ã and Â before what they do not stand before in a word.
    """
    from ftfy.badness import MOJIBAKE_CATEGORIES as CHARACTERS

    letters = ("lower_accented", "lower_common", "upper_common", "common")
    marks = "".join(CHARACTERS[name] for name in CHARACTERS if name not in letters)
    every = "".join(CHARACTERS.values())
    return re.compile(
        f"[{marks}œЂ\ud800-\udfff]"
        f"(?:(?=[{every}])|(?<=[{every}].)|(?<=[ÃÂ])(?= )|(?<=[Œœ])(?![A-Za-z])|(?<=[\x80-\x9f\ud800-\udfff]))"
    )


@cache
def _ftfy_config() -> "ftfy.TextFixerConfig":
    """Repairs what a wrong decoding broke, and touches nothing that an author may have meant."""
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
