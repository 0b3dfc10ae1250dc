"""Bytes to text. UTF-8 unless the bytes say otherwise; what is not UTF-8 is repaired, never refused.

Everything is linear in the bytes: encodings are guessed from a sample, and bad bytes are passed over one by one.

The statistics are uchardet's (by resiliparse). What is ours decides when to ask them, and mends what is damaged, for
charset-normalizer does neither well on our test cases (tests/corpus/readers/test_encodings.py; version 3.5.2, best()):
of 19 short texts in old encodings it reads 14 rightly (we: 19), after an introduction in ASCII 2 (19), of 5 damaged
ones 1 (5), of 20 in UTF-16 and UTF-32 all (20). For 64 KiB it takes 0.3 to 6 ms, we 0.1 to 8.
"""

import codecs
import io
import re
from typing import NamedTuple

SAMPLE = 65_536
"""Bytes at the start of a file by which its encoding is told."""
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its first half
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MARKS = tuple(mark for mark, _ in _BOMS)
_LOOK_AT = 8192
_BLOCK = 4096
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))
_MAX_CONTROLS = 0.1
_PRESCAN = 1024  # HTML standard, "prescan a byte stream to determine its encoding"
_CHARSET = re.compile(
    rb"(?:charset|encoding)\s{0,9}=\s{0,9}[\"']?\s{0,9}([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE
)
_JAPANESE_MAIL = b"\x1b$"  # switches ISO-2022 to two bytes a character; all its bytes are ASCII
_ASCII = bytes(range(128))

_MIN_HIGH, _MIN_HIGH_LATIN = 4, 8  # bytes above 127 that a guess needs; Latin alphabets share most of theirs
_MANY_HIGH = 0.25  # of all bytes: text of an alphabet that is not Latin
_DAMAGED_UTF8 = (
    0.75  # of the bytes above 127 are in valid sequences; in EUC and Shift-JIS half are, by chance
)
_MAX_BAD = 0.01
# Of Python's codecs those for the encodings that people write in; others undo archives, or need quadratic time.
_TEXT_CODECS = re.compile(r"cp\d|iso\d|koi8|mac-|gb|big5|euc|shift|johab|tis|ptcp|kz|hz|hp-roman|ascii")
_WIDER = {
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
}  # as browsers read them
_SAME_AS_FALLBACK = ("ascii", "iso8859-1", "cp1252")


class Decoded(NamedTuple):
    """A text, and whether its encoding was a guess."""

    text: str
    repaired: bool
    """Whether bytes were found that are no UTF-8 and had to be guessed."""


def decode(
    data: bytes, declared: str | None = None, html: bool = False, guessed: str | None = None
) -> Decoded:
    """Decode `data`: by byte order mark, as UTF-8, by what is `declared`, by what HTML or XML declares, else by a guess.

    `declared` is a charset that a header names, `guessed` what was guessed for the whole file. Where nothing can be
    guessed, the bytes that are no UTF-8 are read as Windows-1252 one by one, so that one bad byte does not spoil a file.
    """
    if wide := wide_encoding(data):
        return _decode_wide(data, wide)
    encoding = "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"
    try:
        if _JAPANESE_MAIL in data[:SAMPLE] and (text := _decode_japanese_mail(data)):
            return Decoded(text, repaired=False)
        return Decoded(data.decode(encoding), repaired=False)
    except UnicodeDecodeError as error:
        first_bad = error.start
    for name in (declared, _declared_inside(data) if html else None):
        if (codec := _codec(name)) and (text := _decode_well(data, codec)) is not None:
            return Decoded(text, repaired=False)
    start = max(0, first_bad - _PRESCAN)
    guessed = guessed or guess(data[start : start + SAMPLE])
    text = _decode_well(data, guessed) if guessed else None
    return Decoded(_decode_in_blocks(data) if text is None else text, repaired=True)


def wide_encoding(data: bytes) -> str | None:
    """Tell UTF-16 or UTF-32 by a byte order mark, or UTF-16 by where the zeros of its ASCII letters are; else None."""
    if data.startswith(_MARKS):
        bom = next(name for mark, name in _BOMS if data.startswith(mark))
        return None if bom == "utf-8-sig" else bom
    if b"\0" not in data[:_LOOK_AT] or len(data) < _MIN_HIGH:
        return None
    sample = data[: min(_LOOK_AT, len(data) & ~1)]
    if b"\0" not in sample or len(sample) < _MIN_HIGH:
        return None
    return next(
        (name for low, name in ((0, "utf-16-le"), (1, "utf-16-be")) if _is_utf16(sample, low, name)), None
    )


def _is_utf16(sample: bytes, low: int, name: str) -> bool:
    """Whether many units are ASCII; or some are spaces, and the sample is no text in UTF-8 but is in this encoding."""
    lows, highs = sample[low::2], sample[1 - low :: 2]
    beside = bytes(byte for byte, high in zip(lows, highs, strict=True) if not high)
    if len(beside) > len(lows) / 4:
        return not _has_controls(beside) and lows.count(0) <= len(beside) / 20
    spaces = beside.count(b" ") + beside.count(b"\n")
    return spaces > len(lows) / 100 and _loses(sample, "utf-8") and not _loses(sample, name)


def _loses(sample: bytes, name: str) -> bool:
    """Whether more than a hundredth of the sample is not in the encoding, or many of its characters are controls."""
    text = sample.decode(name, errors="replace")
    return text.count("\ufffd") > _MAX_BAD * len(text) or _has_controls(text.encode())


def guess(sample: bytes) -> str | None:
    """Guess the encoding by uchardet's statistics; None if it is UTF-8 with a few bad bytes, Latin-1, or too short to tell."""
    from resiliparse.parse.encoding import detect_encoding

    high = len(sample.translate(None, _ASCII))
    if high < _MIN_HIGH or _utf8_share(sample) > _DAMAGED_UTF8:
        return None
    # Shift-JIS and Big5 use ASCII bytes too, so the share may be smaller than one in two.
    few = high < _MANY_HIGH * len(sample.translate(None, b" \t\r\n"))
    if few and high < _MIN_HIGH_LATIN:
        return None
    codec = _codec(detect_encoding(sample, max_len=0, html5_compatible=False))
    return None if codec in _SAME_AS_FALLBACK else codec


def is_binary(data: bytes) -> bool:
    """Whether more than a tenth of the first 8 KiB are control bytes: a picture or a program, whatever its name says."""
    return _has_controls(data[:_LOOK_AT]) and not wide_encoding(data)


def _has_controls(sample: bytes) -> bool:
    return len(sample) - len(sample.translate(None, _CONTROLS)) > _MAX_CONTROLS * len(sample)


def _decode_wide(data: bytes, encoding: str) -> Decoded:
    marked = encoding in ("utf-16", "utf-32")
    try:
        return Decoded(data.decode(encoding), repaired=not marked)
    except UnicodeDecodeError:
        return Decoded(data.decode(encoding, errors="replace"), repaired=True)


def _decode_japanese_mail(data: bytes) -> str | None:
    try:
        return data.decode("iso2022_jp_2")
    except UnicodeDecodeError:
        return None


def _decode_well(data: bytes, codec: str) -> str | None:
    """The text, unless more than one in a hundred of its characters would be lost: then it is not in that encoding."""
    text = data.decode(codec, errors="replace")
    return text if text.count("\ufffd") <= max(1, _MAX_BAD * len(text)) else None


def _utf8_share(sample: bytes) -> float:
    """How much of the bytes above 127 belongs to characters of UTF-8."""
    high = len(sample.translate(None, _ASCII))
    return len(sample.decode("utf-8", errors="ignore").encode().translate(None, _ASCII)) / max(1, high)


def _decode_in_blocks(data: bytes) -> str:
    """Some lines at a time, as UTF-8 with bad bytes or as Windows-1252: files may be put together from others."""
    text, stream = io.StringIO(newline=""), io.BytesIO(data)
    while block := b"".join(stream.readlines(_BLOCK)):
        if block.isascii() or _utf8_share(block) > 0.5:
            text.write(block.decode("utf-8", errors=_HANDLER))
        else:
            text.write(codecs.charmap_decode(block, "strict", _WINDOWS_1252)[0])
    return text.getvalue().removeprefix("\ufeff")


def _declared_inside(data: bytes) -> str | None:
    """What `<meta charset>` or the XML declaration says, unless it claims the UTF-8 that the page is not."""
    found = _CHARSET.search(data[:_PRESCAN])
    return found[1].decode("ascii") if found else None


def _codec(name: str | None) -> str | None:
    """Python's codec for a charset as the web uses the word (there "latin-1" means Windows-1252); None for UTF-8."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    try:
        found = codecs.lookup(map_encoding_to_html5(name or "", fallback_utf8=False) or name or "").name
    except (LookupError, ValueError):  # Python does not know it
        return None
    return _WIDER.get(found, found) if _TEXT_CODECS.match(found) else None


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: read the one byte that is no UTF-8 as Windows-1252, and go on after it."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _WINDOWS_1252[error.object[error.start]], error.start + 1


# Five bytes mean nothing there; Latin-1 makes control characters of them, which are removed later.
_WINDOWS_1252 = "".join(bytes([b]).decode("cp1252", errors="ignore") or chr(b) for b in range(256))
_HANDLER = "leanpipe-windows-1252"
codecs.register_error(_HANDLER, _as_windows_1252)
