"""What of a file is a document, and how much of one file is believed."""

from typing import Literal

from pydantic import Field

from leanpipe.core.config import StageConfig


class ReadConfig(StageConfig):
    """What of a file is a document, and at what size a file stops being believable."""

    text_columns: tuple[str, ...] = Field(("text", "content"), min_length=1, max_length=20)
    """Columns of JSON, CSV and Parquet files that may hold the text; of several, the first that holds text in a row counts."""
    text_files: Literal["document", "lines"] = "document"
    """Whether a .txt or .md file is one document, or each of its lines is one."""
    max_document_bytes: int = Field(32 * 2**20, ge=1024, le=2**30)
    """Longest document that is read, in bytes with its markup and attachments; longer ones are skipped and counted. It
    bounds the memory of one reading process to a few times as much."""
    max_expansion: int = Field(200, ge=1, le=100_000)
    """How many times its size a compressed file may unfold to (text: 3 to 20; gzip can do 1,032). The rest of a file that
    goes beyond it is skipped, so that a zip bomb costs no more than its size times this."""
