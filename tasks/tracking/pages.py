"""What a stage wrote for people to read, on the page of the flow run."""

from collections.abc import Iterable
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from leanpipe.core.stage import Page
from leanpipe.corpus.report.data_card import for_a_page


def show_pages(pages: Iterable[Page], report: Path) -> None:
    """Make a markdown artifact of the flow run that is running for each of the pages that are in a stage's report."""
    for page in pages:
        if (report / page.file).exists():
            text = for_a_page((report / page.file).read_text())
            create_markdown_artifact(text, key=page.key, description=page.description)
