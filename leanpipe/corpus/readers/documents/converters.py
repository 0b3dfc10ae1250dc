"""The menu of documents: which function finds the text of each kind."""

from collections.abc import Callable

from leanpipe.corpus.readers.documents.docx import text_of_docx
from leanpipe.corpus.readers.documents.epub import text_of_epub
from leanpipe.corpus.readers.documents.limits import Limits
from leanpipe.corpus.readers.documents.notebook import text_of_notebook
from leanpipe.corpus.readers.documents.odt import text_of_odt
from leanpipe.corpus.readers.documents.pdf import text_of_pdf
from leanpipe.corpus.readers.documents.rst import text_of_rst
from leanpipe.corpus.readers.documents.rtf import text_of_rtf

__all__ = ["CONVERTERS", "Limits"]

CONVERTERS: dict[str, Callable[[bytes, Limits], str]] = {
    "docx": text_of_docx,
    "epub": text_of_epub,
    "ipynb": text_of_notebook,
    "odt": text_of_odt,
    "pdf": text_of_pdf,
    "rst": text_of_rst,
    "rtf": text_of_rtf,
}
"""Each takes a file's bytes, and raises BadFile, or whatever its library raises of a damaged file."""
