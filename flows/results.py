"""What a person sees at the end of a run: tables in the terminal, in Prefect and in MLflow."""

import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel

from leanpipe.core.store import Artifact
from leanpipe.evaluation.compare import comparison, draw_size_against_quality, to_markdown
from tasks.figures import headline
from tasks.run import Run
from tasks.tracking.pages import show_link, show_page
from tasks.tracking.registry import Registered

log = logging.getLogger("leanpipe.run")


class RunResult(BaseModel):
    """The outcome of a flow: every stage's figures, every model's, and what was registered."""

    mlflow_run: str
    stages: dict[str, Artifact]
    """Every stage's result by label, in order."""
    models: dict[str, dict[str, Any]] = {}
    """What `evaluate` measured, by model."""
    registered: Registered | None = None


def show(
    run: Run, evaluations: Mapping[str, Artifact] | None = None, registered: Registered | None = None
) -> RunResult:
    """Put the run's tables where people look, and return them."""
    rows = {label: artifact.summary for label, artifact in (evaluations or {}).items()}
    markdown = _stages_markdown(run)
    if rows:
        markdown = f"{to_markdown(comparison(rows))}\n{markdown}"
        _picture(run, rows)
    if registered:
        log.info("%s", _registered_line(registered).replace("**", ""))
        markdown += f"\n{_registered_line(registered)}\n"
    show_page(markdown, "result", "Every model and every stage of this run")
    run.tracking.log_text(run.mlflow_run, markdown, "summary.md")
    if url := run.tracking.url(run.mlflow_run):
        log.info("This run in MLflow: %s", url)
        show_link(url, "This run in MLflow", "mlflow-run")
    return RunResult(mlflow_run=run.mlflow_run, stages=run.results, models=rows, registered=registered)


def _stages_markdown(run: Run) -> str:
    lines = ["| stage | seconds | headline |", "| --- | ---: | --- |"]
    for label, artifact in run.results.items():
        lines.append(f"| {label} | {artifact.seconds:.1f} | {headline(artifact.summary)} |")
    return "\n".join(lines) + "\n"


def _picture(run: Run, rows: Mapping[str, Mapping[str, Any]]) -> None:
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "size_against_quality.png"
        draw_size_against_quality(rows, picture)  # type: ignore[arg-type]
        run.tracking.log_file(run.mlflow_run, picture)


def _registered_line(registered: Registered) -> str:
    alias = "champion" if registered.champion else "challenger"
    return f"Registered as **{registered.name} version {registered.version}**, {alias}. {registered.reason}"
