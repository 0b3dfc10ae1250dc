"""Rich Text (.rtf), by striprtf: tables as rows of cells; pictures, headers, footers and notes are left out."""

import re

from leanpipe.corpus.readers.documents.limits import Limits
from leanpipe.corpus.readers.unpack import BadFile

_START = b"{\\rtf"
_ENCODING = re.compile(rb"\\ansicpg(\d{3,5})")
_HEAD = 4096


def text_of_rtf(data: bytes, limits: Limits) -> str:
    """Find the text of a Rich Text document."""
    from striprtf.striprtf import rtf_to_text

    if not data.lstrip().startswith(_START):
        raise BadFile("damaged RTF", "it does not begin with {\\rtf")
    found = _ENCODING.search(data, 0, _HEAD)
    encoding = f"cp{found[1].decode()}" if found else "cp1252"
    # Only ASCII should be in it, but some write other bytes as they are.
    try:
        source = data.decode(encoding, errors="replace")
    except LookupError:
        source = data.decode("cp1252", errors="replace")
    return rtf_to_text(source, errors="replace")
