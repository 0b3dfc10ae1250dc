"""What `score_tasks` leaves behind, and what of it lies with a run, so that two models are compared item by item."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leanpipe.core import markdown
from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary
from leanpipe.core.store import REPORT, Artifact
from leanpipe.evaluation.decide.figures import TASKS
from leanpipe.evaluation.task_scores.task_figures import CONFIDENCE, TaskDifference, TaskFigure, difference_of

FILE, ITEMS, PAGE = "tasks.json", "items.jsonl", "tasks.md"
TASKS_MEASURED = (
    "Each figure with its 95% interval; items are the units. The intervals of two models say little of their difference, "
    "which is that of the same items."
)
"""What a reader of several models' figures must know."""


@dataclass(frozen=True)
class TaskResult:
    """The figures of one task for one model."""

    name: str
    digest: str
    """Names what was asked and how: only results with the same one compare."""
    figures: Mapping[str, TaskFigure]
    """By metric."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "TaskResult":
        """Read what `portable` returned."""
        figures = {
            metric: TaskFigure(**{**figure, "units": tuple(figure["units"])})
            for metric, figure in stored["figures"].items()
        }
        return cls(stored["name"], stored["digest"], figures)

    def portable(self) -> dict[str, Any]:
        """Return the result as JSON takes it."""
        figures = {metric: asdict(figure) for metric, figure in self.figures.items()}
        return {"name": self.name, "digest": self.digest, "figures": figures}


def summary_of(results: Sequence[TaskResult]) -> Summary:
    """Every figure and its standard error, by name: `tasks/capitals/acc`, `tasks/capitals/acc_error`."""
    named: Summary = {}
    for result in results:
        for metric, figure in result.figures.items():
            name = f"{TASKS}/{result.name}/{metric}"
            named |= {name: figure.value, f"{name}_error": figure.error}
    return named


def write_results(
    out: Path, results: Sequence[TaskResult], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write the figures, each item's answers, and a table for people."""
    (out / FILE).write_text(json.dumps([one.portable() for one in results], indent=1))
    with (out / ITEMS).open("w") as file:
        for task, some in samples.items():
            for sample in some:
                file.write(json.dumps(_item(task, sample), ensure_ascii=False, default=_plain) + "\n")
    (out / REPORT).mkdir(parents=True, exist_ok=True)
    (out / REPORT / PAGE).write_text(one_model(results))


def read_results(artifact: Artifact) -> tuple[TaskResult, ...]:
    """Read the figures of a result of `score_tasks`."""
    file = artifact.path / FILE
    try:
        return tuple(TaskResult.of(one) for one in json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} holds no scores of tasks ({type(error).__name__}): delete its folder, and it is made again"
        ) from error


def one_model(results: Sequence[TaskResult]) -> str:
    """One model's figures as a table."""
    rows = [
        (result.name, metric, f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}", f"{one.items:,}")
        for result in results
        for metric, one in result.figures.items()
    ]
    return markdown.table(("task", "metric", "", "95% interval", "items"), rows, "llrrr")


def shown_figures(models: Mapping[str, Sequence[TaskResult]]) -> dict[tuple[str, str], dict[str, str]]:
    """Every figure with its interval, as people are shown it: by task and metric, then by model."""
    found: dict[tuple[str, str], dict[str, str]] = {
        (task.name, metric): {} for some in models.values() for task in some for metric in task.figures
    }
    for label, some in models.items():
        for task in some:
            for metric, one in task.figures.items():
                found[task.name, metric][label] = f"{one.value:.3g} ({one.low:.3g} to {one.high:.3g})"
    return found


def side_by_side(models: Mapping[str, Sequence[TaskResult]]) -> str:
    """Several models' figures as a table, a row for each metric of each task."""
    found = shown_figures(models)
    rows = [(*name, *(by.get(label, "–") for label in models)) for name, by in found.items()]
    return markdown.table(("task", "metric", *models), rows, "ll" + "r" * len(models)) if rows else ""


def differences(
    ours: Sequence[TaskResult], theirs: Sequence[TaskResult], confidence: float = CONFIDENCE
) -> dict[tuple[str, str], TaskDifference]:
    """Compare two models on each metric of each task that both were asked alike, by task and metric."""
    known = {task.digest: task for task in theirs}
    return {
        (task.name, metric): difference_of(figure, known[task.digest].figures[metric], confidence)
        for task in ours
        if task.digest in known
        for metric, figure in task.figures.items()
        if metric in known[task.digest].figures
    }


def _item(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    """One item as it was asked and answered."""
    asked = sample["arguments"]
    return {
        "task": task,
        "item": sample["doc_hash"][:16],
        "prompt": asked[0][0] if asked else "",
        "target": sample["target"],
        "answers": sample["filtered_resps"],
        "filter": sample["filter"],
        **{metric: sample[metric] for metric in sample["metrics"]},
    }


def _plain(value: Any) -> Any:
    """A number of NumPy's as JSON takes it."""
    return value.item() if hasattr(value, "item") else str(value)
