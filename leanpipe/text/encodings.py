"""Bytes to text. UTF-8 unless the bytes say otherwise; what is not UTF-8 is repaired, never refused."""

import codecs
from typing import NamedTuple

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SAMPLE = 8192
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))
_MAX_CONTROLS = 0.1
_CHARSET_WITHIN = 1024  # HTML standard, "prescan a byte stream to determine its encoding"


class Decoded(NamedTuple):
    text: str
    repaired: bool
    """Whether bytes were found that are no UTF-8 and had to be guessed."""


def decode(data: bytes, html: bool = False) -> Decoded:
    """The text in `data`: by its byte order mark, as UTF-8, by the charset that HTML declares, else repaired.

    Bytes that are no UTF-8 are read as Windows-1252 one by one, so one bad byte does not spoil a whole file.
    """
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
    try:
        return Decoded(data.decode(encoding), repaired=False)
    except UnicodeDecodeError:
        pass
    if encoding == "utf-16":
        return Decoded(data.decode(encoding, errors="replace"), repaired=True)
    if html and (declared := _declared_charset(data)):
        return Decoded(data.decode(declared, errors="replace"), repaired=False)
    return Decoded(data.decode(encoding, errors=_HANDLER), repaired=True)


def is_binary(data: bytes) -> bool:
    """Whether more than a tenth of the first 8 KiB are control bytes: a picture or a program, whatever its name says."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    sample = data[:_SAMPLE]
    return len(sample) - len(sample.translate(None, _CONTROLS)) > _MAX_CONTROLS * len(sample)


def _declared_charset(data: bytes) -> str | None:
    """The charset of an HTML page's `<meta>`, unless it claims the UTF-8 that the page is not."""
    from resiliparse.parse.encoding import detect_encoding

    if b"charset" not in data[:_CHARSET_WITHIN].lower():
        return None
    name = detect_encoding(data, from_html_meta=True) or ""
    try:
        return None if codecs.lookup(name).name == "utf-8" else name
    except LookupError:  # Python does not know it
        return None


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: read the one byte that is no UTF-8 as Windows-1252, and go on after it."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    # Five bytes mean nothing there; Latin-1 makes control characters of them, which are removed later.
    byte = error.object[error.start : error.start + 1]
    return byte.decode("cp1252", errors="ignore") or byte.decode("latin-1"), error.start + 1


_HANDLER = "leanpipe-windows-1252"
codecs.register_error(_HANDLER, _as_windows_1252)  # decoding stays linear, however many bytes are bad
