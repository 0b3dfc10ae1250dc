"""What a stage wrote for people to read, on the page of the flow run."""

from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from leanpipe.corpus.report.data_card import for_a_page

_PAGES = {
    "card.md": ("data-card", "What is in the corpus, what was left out and why"),
    "inspection.md": ("inspection", "What cleaning would drop of a sample, and why"),
}
"""Files in the report of a stage; key and description of their artifacts."""


def show_pages(report: Path) -> None:
    """A markdown artifact of the flow run that is running for each of the pages in a stage's report."""
    for name, (key, description) in _PAGES.items():
        page = report / name
        if page.exists():
            create_markdown_artifact(for_a_page(page.read_text()), key=key, description=description)
