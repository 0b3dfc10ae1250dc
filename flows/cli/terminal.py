"""What `leanpipe run` prints at the end."""

import os

from rich.table import Table
from rich.text import Text

from flows.cli.console import console
from flows.cli.inspection import print_inspection
from flows.results import RunResult
from leanpipe.core.home import Home
from leanpipe.evaluation.compare import comparison, formatted
from tasks.figures import headline

_FIRST = ("bits/byte", "± error", "answers, bits/byte", "size, MB", "decode tok/s", "peak memory, MB")
"""The columns that a narrow terminal shows."""


def print_result(result: RunResult, home: Home) -> None:
    """Print stages with their seconds, models side by side, what was registered, and where to look next."""
    out = console()
    out.print(_stages(result))
    if "inspect" in result.stages:
        print_inspection(result.stages["inspect"], out)
    if result.models:
        out.print(_models(result, out.width))
    if result.registered:
        alias = "champion" if result.registered.champion else "challenger"
        name = f"{result.registered.name} version {result.registered.version}"
        out.print(Text.assemble((name, "bold"), f" is {alias}."))
        out.print(result.registered.reason)
    out.print(_next(home, result.registered.name if result.registered else None), soft_wrap=True)


def _stages(result: RunResult) -> Table:
    table = Table("stage", title="Stages", title_justify="left")
    table.add_column("seconds", justify="right")
    table.add_column("figures", overflow="fold")
    for label, artifact in result.stages.items():
        table.add_row(label, f"{artifact.seconds:.1f}", headline(artifact.summary))
    return table


def _models(result: RunResult, width: int) -> Table:
    """Show as many columns as fit: squeezed to a few letters each, none could be read."""
    rows = comparison(result.models)
    cells = {name: [formatted(name, value) for value in rows[name]] for name in rows.columns}
    left = width - max(len("model"), *map(len, map(str, rows.index))) - 4
    shown = set()
    for name in sorted(cells, key=lambda name: name not in _FIRST):
        left -= max(map(len, [name, *cells[name]])) + 3
        if left >= 0:
            shown.add(name)
    title = "Models, on the same held-out text"
    caption = None if len(shown) == len(cells) else "A wider terminal shows more, and so does MLflow."
    table = Table("model", title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in (columns := [name for name in cells if name in shown]):
        table.add_column(name, justify="right", no_wrap=True)
    for number, label in enumerate(map(str, rows.index)):
        table.add_row(label, *(cells[name][number] for name in columns))
    return table


def _next(home: Home, registered: str | None) -> str:
    here = "" if "LEANPIPE_HOME" not in os.environ else f" (with LEANPIPE_HOME={home.root})"
    commands = {
        "leanpipe up": "start Prefect and MLflow: see this run, start others, compare",
        f"leanpipe serve {'' if registered == 'leanpipe' else registered or ''}".strip(): "answer chat and completion requests with the champion",
        str(home.store): "every result, by stage",
    }
    width = max(map(len, commands))
    return f"\nNext{here}:\n" + "".join(f"  {name:<{width}}  {what}\n" for name, what in commands.items())
