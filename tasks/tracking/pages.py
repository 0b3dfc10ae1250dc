"""What is shown on the page of the flow run in Prefect. Nothing waits for that: see background.py."""

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from leanpipe.core.stage import Page
from leanpipe.corpus.report.data_card import for_a_page
from tasks.tracking.background import calls
from tasks.tracking.patience import tell

_QUIET_SECONDS, _PATIENCE_SECONDS = 5, 60


def show_pages(pages: Iterable[Page], report: Path) -> None:
    """Show each of the pages that are in a stage's report."""
    for page in pages:
        if (report / page.file).exists():
            show_page(for_a_page((report / page.file).read_text()), page.key, page.description)


def show_page(markdown: str, key: str, description: str) -> None:
    """Make a Markdown artifact of the flow run that is running."""
    calls.add(partial(create_markdown_artifact, markdown, key=key, description=description))


def show_link(address: str, text: str, key: str) -> None:
    """Make a link artifact of the flow run that is running."""
    calls.add(partial(create_link_artifact, address, link_text=text, key=key))


def show_table(rows: list[dict[Any, Any]], key: str, description: str) -> None:
    """Make a table artifact of the flow run that is running, a row for each entry."""
    calls.add(partial(create_table_artifact, rows, key=key, description=description))


def show_image(picture: Path, key: str, description: str) -> None:
    """Make an image artifact of the flow run that is running, which holds the picture itself: no server need have it."""
    address = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    calls.add(partial(create_image_artifact, address, key=key, description=description))


@contextmanager
def pages_of_a_run() -> Iterator[None]:
    """Wait at the end of a run until everything is shown; after a minute it ends without, and says so."""
    try:
        yield
        if not calls.finish(_QUIET_SECONDS):
            tell(f"Prefect does not answer: the end of the run waits for it, {_PATIENCE_SECONDS} s at most")
        if not calls.finish(_PATIENCE_SECONDS):
            tell(
                f"Prefect did not answer for {_PATIENCE_SECONDS} s: its page of this run lacks some of what belongs there"
            )
    except Exception:
        calls.finish(_QUIET_SECONDS)
        raise
    finally:
        calls.forget()
