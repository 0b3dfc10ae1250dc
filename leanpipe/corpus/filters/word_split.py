"""What a word is: the pieces that spaCy's English rules would cut a text into, found without spaCy.

Stock datatrove measures such words, in which punctuation marks are words of their own, so that the same thresholds
drop the same documents. On English pages 998 of 1,000 pieces between white space are cut as spaCy 3.8 cuts them: its
smileys, and its "cannot" and "id" in two parts, are not followed.
"""

import re
import unicodedata

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher's own eight, English (Rae et al. 2021, A.1.1)."""
TERMINALS = frozenset(".!?。．｡！？؟۔।॥։።፧။។៕៖‼⁇⁈⁉‽⸮﹒﹖﹗")
"""What sentences end with, in the scripts of today (Unicode's Sentence_Terminal)."""

_QUOTES = "\"'`´“”„‘’‚«»「」『』（）〔〕【】《》〈〉"
_MARKS = ",:;!?¿؟¡()[]{}<>_#*&—–…。？！，、；：～·।،۔؛٪" + _QUOTES
# What is cut off before and after a word.
_BEFORE, _AFTER = "%=$£€¥§" + _MARKS, "." + _MARKS
# In the smaller sets a character is found sooner.
_ASCII_BEFORE, _ASCII_AFTER = ("".join(filter(str.isascii, marks)) for marks in (_BEFORE, _AFTER))
_SHORTENED = (
    "Mr. Mrs. Ms. Dr. Prof. Rev. Gen. Gov. Sen. Rep. St. Mt. Jr. Inc. Ltd. Co. Corp. Bros. vs. Jan. Feb. Mar. Apr. "
    "Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. Ph.D. and/or C++ o'clock ma'am"
)
_KEPT = frozenset(_SHORTENED.split())
# Every quantifier but those of single letters is possessive: nothing is tried twice.
_WHOLE = re.compile(
    r"(?:[^\W\d_]\.)+"  # e.g.
    r"|(?:[\w+.\-]{2,}+://)?+(?:[^\s@]++@)?+"  # a page, a file or an address
    r"(?:[^\W_](?:[\w\-]*+)\.)++[^\W\dA-Z_]{2,}+(?::\d{2,5}+)?+(?:[/?#]\S*+)?+"
)
_DOTS = re.compile(r"\.\.+|.", re.DOTALL)
_END = re.compile(
    r"(?:['’](?:s|S|m|re|ve|ll|d|M|RE|VE|LL|D)|(?<=[^\W\d_])n['’]t"  # he's, don't
    r"|(?<=\d)(?:[+%$£€¥]|km|mm?|cm|nm|in|ft|[km]?g|lb|oz|[kKMGT]B?|[mgt]b|am|pm))\Z"  # 10MB
)
_LOOSE_STOP = re.compile(r"(?:[^\W\dA-Z_]|[\d%²+\-]|[A-Z][A-Z])\Z")
# One set of characters comes first, for then the search leaps to the next of them.
_WITHIN = re.compile(
    r"([.…,:<>=/+*^–—~\-©®°\u2300-\u27bf\u2b00-\u2bff\ufffd\U0001f000-\U0001faff](?:"
    r"(?<=\.)\.+|(?<=[…©®°\u2300-\u27bf\u2b00-\u2bff\ufffd\U0001f000-\U0001faff])"
    r"|(?<=\d[+\-*^])(?=[\d\-])"  # 1-2
    r"|(?<=[^\W\dA-Z_]\.)(?=[A-Z'\"])|(?<=['\"]\.)(?=[A-Z'\"])"  # end.Start
    r"|(?<=[^\W\d_],)(?=[^\W\d_])"
    r"|(?<=[^\W_][-–—~])-{0,2}(?=[^\W\d_])"  # well-known
    r"|(?<=[^\W_][:<>=/])(?=[^\W\d_])))"  # and/else
)


def split_chunk(chunk: str) -> list[str]:
    """Cut `chunk`, which holds no white space, into words that joined are `chunk`. In linear time."""
    if chunk.isidentifier():
        return [chunk]
    before, after = (_ASCII_BEFORE, _ASCII_AFTER) if chunk.isascii() else (_BEFORE, _AFTER)
    rest = chunk.lstrip(before)
    core = rest.rstrip(after)
    before, after = chunk[: len(chunk) - len(rest)], rest[len(core) :]
    if "." in after:
        if not core.isidentifier() and _WHOLE.fullmatch(rest):
            return [*before, rest]
        if after[0] == "." and after[1:2] != "." and _keeps_stop(core):
            core, after = f"{core}.", after[1:]
    elif "/" in core and "." in core and _WHOLE.fullmatch(rest):
        return [*before, rest]
    words = [core] if core.isidentifier() else _inner(core)
    return [*before, *words, *(_DOTS.findall(after) if ".." in after else after)]


def _keeps_stop(core: str) -> bool:
    """Whether a full stop after `core` is part of the word, for it shortens one."""
    if len(core) > 1 and core[-1].islower() and core.isalpha():
        return f"{core}." in _KEPT
    return f"{core}." in _KEPT or bool(_WHOLE.fullmatch(f"{core}.")) or not _LOOSE_STOP.search(core[-2:])


def _inner(core: str) -> list[str]:
    """The words of what has no marks around it."""
    if not core or core.replace(".", "").isdigit() or core in _KEPT:
        return [core] if core else []
    if core[0] != "-" != core[-1] and core.replace("-", "").isalpha():
        return core.replace("-", " - ").split()
    if "." in core and _WHOLE.fullmatch(core):
        return [core]
    may_end = core[0].isdigit() or "'" in core or "’" in core
    end = _END.search(core, max(1, len(core) - 4)) if may_end else None
    inner = core[: end.start()] if end else core
    words = [piece for piece in _WITHIN.split(inner) if piece]
    return [*words, end[0]] if end else words


def count_sentences(line: str, enough: int) -> int:
    """Count the sentences of `line`, up to `enough`: one ends where something follows a terminal mark.

    Full stops within abbreviations and numbers end none, for they are not words of their own.
    """
    count, ended = 1, False
    for chunk in line.split():
        for word in split_chunk(chunk):
            if word in TERMINALS:
                ended = True
            elif ended and not all(unicodedata.category(letter).startswith("P") for letter in word):
                count, ended = count + 1, False
        if count >= enough:
            break
    return count
