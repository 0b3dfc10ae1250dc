"""Jupyter notebooks (.ipynb): their prose and their code in order; what the code printed is left out."""

from collections.abc import Iterator
from typing import Any

from leanpipe.corpus.readers.documents.limits import Limits
from leanpipe.corpus.readers.unpack import BadFile


def text_of_notebook(data: bytes, limits: Limits) -> str:
    """Find the text of a notebook as Markdown: code stands between fences."""
    import orjson

    try:
        notebook = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise BadFile("damaged notebook", error) from error
    if not isinstance(notebook, dict):
        raise BadFile("damaged notebook", "it is no object")
    return "\n\n".join(text for cell in _cells(notebook) if (text := _text(cell, _language(notebook))))


def _cells(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The cells; up to format 3 they lie in worksheets."""
    sheets = notebook.get("worksheets", [notebook])
    if not isinstance(sheets, list) or not any(isinstance(one, dict) and "cells" in one for one in sheets):
        raise BadFile("damaged notebook", "it has no cells")
    for sheet in sheets:
        cells = sheet.get("cells") if isinstance(sheet, dict) else None
        yield from (cell for cell in (cells if isinstance(cells, list) else []) if isinstance(cell, dict))


def _text(cell: dict[str, Any], language: str) -> str:
    kind = cell.get("cell_type")
    source = cell.get("input" if "input" in cell else "source", "")
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    text = text.strip("\n")
    if kind == "code" and text.strip():
        fence = "````" if "```" in text else "```"
        return f"{fence}{language}\n{text}\n{fence}"
    if kind == "heading":
        level = cell.get("level")
        return f"{'#' * (level if isinstance(level, int) and 1 <= level <= 6 else 1)} {text}"
    return text if kind == "markdown" else ""


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for part, name in (("language_info", "name"), ("kernelspec", "language")):
        found = metadata.get(part) if isinstance(metadata, dict) else None
        if isinstance(found, dict) and isinstance(found.get(name), str):
            return found[name]
    return "python"
