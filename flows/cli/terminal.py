"""What `leanpipe run` prints at the end."""

import os

from rich.table import Table

from flows.cli.console import console
from flows.cli.inspection import print_inspection
from flows.results import RunResult, headline
from leanpipe.core.home import Home
from leanpipe.evaluation.compare import comparison, formatted


def print_result(result: RunResult, home: Home) -> None:
    """Stages with their seconds, models side by side, what was registered, and where to look next."""
    out = console()
    out.print(_stages(result))
    if "inspect" in result.stages:
        print_inspection(result.stages["inspect"], out)
    if result.models:
        out.print(_models(result))
    if result.registered:
        alias = "champion" if result.registered.champion else "challenger"
        out.print(f"[bold]{result.registered.name} version {result.registered.version}[/bold] is {alias}.")
        out.print(result.registered.reason)
    out.print(_next(home), soft_wrap=True)


def _stages(result: RunResult) -> Table:
    table = Table("stage", title="Stages", title_justify="left")
    table.add_column("seconds", justify="right")
    table.add_column("figures", overflow="fold")
    for label, artifact in result.stages.items():
        table.add_row(label, f"{artifact.seconds:.1f}", headline(artifact.summary))
    return table


def _models(result: RunResult) -> Table:
    rows = comparison(result.models)
    table = Table("model", title="Models, on the same held-out text", title_justify="left")
    for name in rows.columns:
        table.add_column(name, justify="right")
    for label, row in rows.iterrows():
        table.add_row(str(label), *(formatted(name, row[name]) for name in rows.columns))
    return table


def _next(home: Home) -> str:
    here = "" if "LEANPIPE_HOME" not in os.environ else f" (with LEANPIPE_HOME={home.root})"
    return (
        f"\nNext{here}:\n"
        "  leanpipe up      start Prefect and MLflow: see this run, start others, compare\n"
        "  leanpipe serve   answer chat and completion requests with the champion\n"
        f"  {home.store}   every result, by stage\n"
    )
