"""A sweep: one model in several formats and settings, each measured by the engine that serves it, side by side."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow

from flows.compress import quantize_measured
from flows.evaluate import evaluate_all, score_all
from flows.results import RunResult, show
from leanpipe.compression.formats import GGUF, MIXED
from leanpipe.compression.quantize import QuantizeConfig, with_formats
from leanpipe.compression.quantize_config import without_budget
from leanpipe.core.stage import Summary
from leanpipe.corpus.clean import clean
from leanpipe.evaluation.compare import comparison, to_markdown
from leanpipe.evaluation.pareto import dominated_by, draw_pareto, worth_having
from leanpipe.evaluation.report.stored_scores import ModelScores
from leanpipe.evaluation.task_scores.task_results import shown_figures
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import SweepSettings
from tasks.preflight import preflight
from tasks.report import read_scores
from tasks.run import Run, tracked_run
from tasks.run_inputs import resolve
from tasks.tracking.pages import show_image, show_page, show_table

_FULL = "full"


@flow(name="sweep")
def sweep_formats(config: SweepSettings = SweepSettings()) -> RunResult:
    """Make several formats and settings of one model, and measure each: what is worth having of size, speed and quality.

    Args:
        config: The model, the formats and settings, the corpus, and what is measured.
    """
    with tracked_run("sweep", config) as run:
        given = resolve(
            run,
            corpus=config.corpus,
            models=(config.model,),
            evaluation_sets=config.evaluation_sets,
            tasks=config.tasks,
        )
        preflight(run, stages, config, given)
        evaluations = stages(run, config, given)
        rows = {label: artifact.summary for label, artifact in evaluations.items()}
        _show_pareto(run, rows, task_columns(read_scores(evaluations, run.results)))
        return show(run, evaluations)


def stages(run: StageRunner, config: SweepSettings, given: RunInputs) -> Mapping[str, Any]:
    """Clean the corpus, make each form of the model, evaluate all on what was held out, and ask them the same tasks: the
    evaluations by form."""
    documents = run.stage(clean, config.clean, corpus=given.corpus, evaluations=given.evaluation_sets)
    models = {_FULL: given.model, **forms(run, config, given, documents)}
    evaluations = evaluate_all(run, config, models, documents)
    score_all(run, config, models, given.tasks)
    return evaluations


def task_columns(scores: Mapping[str, ModelScores]) -> dict[str, dict[str, str]]:
    """A column for each metric of each task, by its heading: what is said of each form. The report's numbers."""
    found = shown_figures({label: one.tasks for label, one in scores.items() if one.tasks})
    return {
        f"{task}: {metric}": {label: by.get(label, "–") for label in scores}
        for (task, metric), by in found.items()
    }


def forms(run: StageRunner, config: SweepSettings, given: RunInputs, documents: Any) -> dict[str, Any]:
    """Make each form as the pipeline makes it, with the text that it is calibrated on: the models by form."""
    made = {}
    for name, settings in settings_of(config, given):
        result = quantize_measured(run, settings, given.model, documents, f"quantize-{name}")
        made[name] = result.inside(settings.formats[0])
    return made


def settings_of(config: SweepSettings, given: RunInputs) -> Iterator[tuple[str, QuantizeConfig]]:
    """Name every combination that makes another model: embeddings matter to GGUF of one type below 8 bits, bounds to `mixed`."""
    chosen = with_formats(config.quantize, given.model)
    for form in dict.fromkeys(chosen.formats):
        alone = chosen if form == MIXED or MIXED not in chosen.formats else without_budget(chosen)
        kinds = config.sweep.embeddings if form in GGUF and form not in ("q8_0", MIXED) else ()
        for kind in dict.fromkeys(kinds):
            settings = {"formats": (form,), "embeddings": kind}
            yield f"{form}-{kind}", alone.model_copy(update=settings)
        if not kinds:
            yield form, alone.model_copy(update={"formats": (form,)})


def sweep_page(rows: Mapping[str, Summary], tasks: Mapping[str, Mapping[str, str]] = {}) -> str:
    """Say in Markdown which forms are worth having, and what was measured of each, with a column for each of `tasks`."""
    names = ", ".join(worth_having(rows))
    compared = to_markdown(comparison(rows), {**tasks, "dominated by": dominated_by(rows)})
    return f"# Sweep\n\nNo other form is at once as small, as fast and as good as one of these: **{names}**.\n\n{compared}"


def _show_pareto(run: Run, rows: Mapping[str, Summary], tasks: Mapping[str, Mapping[str, str]]) -> None:
    """Put the table, the picture, and the names of what is worth having, into MLflow and on the page in Prefect."""
    front, better, page = worth_having(rows), dominated_by(rows), sweep_page(rows, tasks)
    run.tracking.log_text(run.mlflow_run, page, "sweep.md")
    run.tracking.log_figures(run.mlflow_run, {"sweep.worth_having": ", ".join(front)})
    shown = [
        {
            "form": str(label),
            "worth having": label in front,
            "dominated by": better[str(label)],
            **row,
            **{heading: by[str(label)] for heading, by in tasks.items()},
        }
        for label, row in comparison(rows).to_dict("index").items()
    ]
    show_table(shown, "sweep-table", "Every form by size, speed and quality")
    show_page(page, "sweep", "Every form of the model, and which are worth having")
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "pareto.png"
        draw_pareto(rows, picture)
        run.tracking.log_file(run.mlflow_run, picture)
        show_image(picture, "pareto", "Bits per byte by size and by speed")
