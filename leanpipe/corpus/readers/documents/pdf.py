"""PDF, by PDFium (pypdfium2): the text that a page holds, in the order in which it was written.

Lines are joined to paragraphs, words that were parted at line ends to words; what stands at the head or foot of page after
page is left out. What is not done: scans, which hold pictures of text, would need OCR; columns and tables are as the file
has them, often line by line.
"""

from collections.abc import Iterator
from contextlib import closing

from leanpipe.corpus.readers.documents.limits import Limits
from leanpipe.corpus.readers.documents.printed_lines import join_pages
from leanpipe.corpus.readers.stream import TOO_LONG
from leanpipe.corpus.readers.unpack import BadFile

_WRONG_PASSWORD, _UNKNOWN_SECURITY = (
    4,
    5,
)  # FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY; it may be the code of an earlier file


def text_of_pdf(data: bytes, limits: Limits) -> str:
    """Find the text of a PDF."""
    import pypdfium2

    try:
        with pypdfium2.PdfDocument(data) as document:
            count = len(document)
            pages = list(_bounded(_pages(document), limits))
    except pypdfium2.PdfiumError as error:
        if error.err_code in (_WRONG_PASSWORD, _UNKNOWN_SECURITY) and b"/Encrypt" in data:
            raise BadFile("encrypted") from error
        raise BadFile("damaged PDF", error) from error
    if not count:
        raise BadFile("damaged PDF", "it has no pages")
    if not any(page.strip() for page in pages):
        raise BadFile(
            "no text in the document",
            f"{count} pages without text: if they are scans, they need OCR, which leanpipe does not do",
        )
    return join_pages(pages)


def _pages(document) -> Iterator[str]:
    """The text of each page; a damaged page is an empty one, as in every viewer."""
    import pypdfium2

    for number in range(len(document)):
        try:
            with closing(document[number]) as page, closing(page.get_textpage()) as text:
                found = text.get_text_bounded()
        except pypdfium2.PdfiumError:
            found = ""
        yield found


def _bounded(pages: Iterator[str], limits: Limits) -> Iterator[str]:
    """The pages. Raises BadFile when they hold more than a document may."""
    size = 0
    for page in pages:
        size += len(page)
        if size > limits.document_bytes:
            raise BadFile(TOO_LONG, "text of its pages")
        yield page
