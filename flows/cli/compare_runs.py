"""What `leanpipe compare` prints."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from leanpipe.evaluation.paired import Difference
from leanpipe.evaluation.report.run_difference import ModelDifference, named_step
from leanpipe.evaluation.report.stored_scores import METRICS
from leanpipe.evaluation.report.waterfall import Step
from leanpipe.evaluation.task_scores.task_figures import TaskDifference
from tasks.report import ComparedRuns


def print_comparison(compared: ComparedRuns, console: Console) -> None:
    """Print how the models of one run differ from those of the other, and how its stages do."""
    found = compared.found
    if found.models:
        console.print(_models(compared, found.models))
    if found.steps:
        console.print(_steps(found.steps))
        worst = named_step(found.steps)
        console.print(
            f"{worst.stage} ({worst.before} → {worst.after}) costs certainly more than it did, on {METRICS[worst.metric]}."
            if worst
            else "No stage certainly costs more than it did.",
            soft_wrap=True,
        )
    if found.tasks:
        console.print(_tasks(compared, found.tasks))
    for remark in found.remarks:
        console.print(f"{remark}.", soft_wrap=True, markup=False)


def _models(compared: ComparedRuns, models: list[ModelDifference]) -> Table:
    title = f"{compared.name} against {compared.other}: bits per byte, fewer are better"
    table = _table(title, "model", "on")
    for model in models:
        table.add_row(model.label, METRICS[model.metric], *_cells(model.difference), model.verdict)
    return table


def _steps(steps: list[Step]) -> Table:
    table = _table("What each stage cost, against what it cost there", "stage", "on")
    for step in steps:
        verdict = {"lost": "costs more", "gained": "costs less"}.get(step.verdict, step.verdict)
        name = f"{step.stage} ({step.before} → {step.after})"
        table.add_row(name, METRICS[step.metric], *_cells(step.difference), verdict)
    return table


def _tasks(compared: ComparedRuns, tasks: Mapping[tuple[str, str, str], TaskDifference]) -> Table:
    table = _table(f"Tasks: {compared.name} against {compared.other}", "model", "task", of="items")
    for (label, task, metric), one in tasks.items():
        table.add_row(label, f"{task}: {metric}", *_cells(one), one.verdict)
    return table


def _table(title: str, *columns: str, of: str = "documents") -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for name in ("here", "there", "difference", "95% interval", of):
        table.add_column(name, justify="right", no_wrap=name != "95% interval")
    table.add_column("")
    return table


def _cells(difference: Difference | TaskDifference) -> tuple[str, ...]:
    return (
        f"{difference.ours:.4f}",
        f"{difference.theirs:.4f}",
        f"{difference.estimate:+.4f}",
        f"{difference.low:+.4f} to {difference.high:+.4f}",
        f"{difference.items if isinstance(difference, TaskDifference) else difference.documents:,}",
    )
