"""What `leanpipe inspect` prints."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from leanpipe.core.store import Artifact
from leanpipe.corpus.report.dry_run_report import COLUMNS, INSPECTION, Inspection, rows, summary_sentence
from leanpipe.corpus.rule_names import format_value, is_numeric_rule


def print_inspection(result: Artifact, console: Console) -> None:
    """Print the rules of cleaning with what each would drop, and how some of that begins."""
    found = Inspection.model_validate_json((result.path / INSPECTION).read_text())
    console.print(_rules(found))
    console.print(_examples(found))
    for title, counts in (
        ("Personal data that would be replaced", found.redacted),
        ("Languages", found.languages),
        ("Could not be read", found.skipped),
    ):
        if counts:
            listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            console.print(Text.assemble((f"{title}:", "bold"), f" {listed}"), soft_wrap=True)
    console.print(f"\n{summary_sentence(found)}", soft_wrap=True)
    console.print(f"The same with pictures: {result.path / 'report'}", soft_wrap=True)


def _rules(found: Inspection) -> Table:
    """Leave out the rules that drop nothing: what they measured is on the page."""
    table = Table(COLUMNS[0], title="What each rule would drop", title_justify="left")
    for column in COLUMNS[1:]:
        table.add_column(column, justify="right")
    for one, row in zip(found.rules, rows(found), strict=True):
        if one.documents:
            table.add_row(*row)
    return table


def _examples(found: Inspection) -> Table:
    """Give each example one line: what does not fit is on the page."""
    table = Table(
        "rule", title="For example, from the nearest to the bound to the farthest", title_justify="left"
    )
    table.add_column("source", overflow="ellipsis", no_wrap=True, max_width=30)
    table.add_column("measured", justify="right")
    table.add_column("begins", overflow="ellipsis", no_wrap=True)
    for one in found.rules:
        for number, example in enumerate(one.examples):
            measured = format_value(example.value) if is_numeric_rule(one.rule) else ""
            text = " ".join(example.text.split())
            table.add_row("" if number else one.rule, example.source, measured, text)
    return table
