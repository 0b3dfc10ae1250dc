"""What a person sees at the end of a run: tables in the terminal, in Prefect and in MLflow."""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from leanpipe.core.markdown import table
from leanpipe.core.store import Artifact
from leanpipe.evaluation.compare import comparison, to_markdown
from leanpipe.evaluation.report.waterfall import waterfall, waterfall_markdown
from tasks.figures import headline
from tasks.report import REPORT_FILE, read_scores, write_report
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
    """Put the run's tables where people look, with a report of all of it, and return them."""
    rows = {label: artifact.summary for label, artifact in (evaluations or {}).items()}
    stages = markdown = stages_markdown(run.results)
    verdict = registered_line(registered) if registered else ""
    url = run.tracking.url(run.mlflow_run)
    if evaluations:
        steps = waterfall(read_scores(evaluations, run.results))
        shown = f"{waterfall_markdown(steps)}\n" if steps else ""
        markdown = f"{to_markdown(comparison(rows))}\n{shown}{markdown}"
        write_report(run, evaluations, verdict, stages, url)
    if registered:
        log.info("%s", verdict.replace("**", ""))
        markdown = f"{verdict}\n\n{markdown}"
    show_page(markdown, "result", "Every model and every stage of this run")
    run.tracking.log_text(run.mlflow_run, markdown, "summary.md")
    if url:
        log.info("This run in MLflow: %s", url)
        show_link(url, "This run in MLflow", "mlflow-run")
        if evaluations:
            show_link(report_address(url), "The report of this run", "report")
    return RunResult(mlflow_run=run.mlflow_run, stages=run.results, models=rows, registered=registered)


def report_address(run: str) -> str:
    """Where MLflow shows the report among the files of a run, whose page is given."""
    return f"{run}/artifacts/{REPORT_FILE}"


def stages_markdown(results: Mapping[str, Artifact]) -> str:
    """Every stage with its seconds and its first figures, as a table."""
    rows = [
        (label, f"{artifact.seconds:.1f}", headline(artifact.summary)) for label, artifact in results.items()
    ]
    return table(("stage", "seconds", "headline"), rows, "lrl")


def registered_line(registered: Registered) -> str:
    """Say in Markdown what became of the model that was registered, and why."""
    alias = "champion" if registered.champion else "challenger"
    return f"Registered as **{registered.name} version {registered.version}**, {alias}. {registered.reason}"
