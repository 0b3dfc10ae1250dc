"""Evaluation alone: any models, side by side on the same held-out text."""

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from prefect import flow

from flows.results import RunResult, show
from leanpipe.corpus.clean import clean
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.evaluation.task_scores.score_tasks import score_tasks
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import CompareSettings
from tasks.preflight import preflight
from tasks.run import tracked_run
from tasks.run_inputs import resolve

_LONGEST_LABEL = 100  # characters; a metric's name, which begins with it, may have 250


@flow(name="evaluate")
def evaluate_models(config: CompareSettings = CompareSettings()) -> RunResult:
    """Measure models on the held-out part of a corpus.

    Args:
        config: The models, the corpus, and what is measured.
    """
    with tracked_run("evaluate", config) as run:
        given = resolve(
            run,
            corpus=config.corpus,
            models=config.models,
            evaluation_sets=config.evaluation_sets,
            instructions=config.instructions,
            tasks=config.tasks,
        )
        preflight(run, stages, config, given)
        return show(run, stages(run, config, given))


def stages(run: StageRunner, config: CompareSettings, given: RunInputs) -> Mapping[str, Any]:
    """Clean the corpus, and evaluate each model on what was held out of it: the evaluations by the models' names."""
    documents = run.stage(clean, config.clean, corpus=given.corpus, evaluations=given.evaluation_sets)
    models = {model.name: model for model in given.models}
    evaluations = evaluate_all(run, config, models, documents, given.instructions)
    score_all(run, config, models, given.tasks)
    return evaluations


def evaluate_all(
    run: StageRunner, config: Any, models: Mapping[str, Any], documents: Any, instructions: Any = None
) -> dict[str, Any]:
    """The evaluations of `models`, all on the same documents and answers, by the same names."""
    labels = [f"evaluate-{name}" for name in identifiers(models)]
    return {
        name: run.stage(
            evaluate,
            config.evaluate,
            label=label,
            model=model,
            documents=documents,
            instructions=instructions,
        )
        for label, (name, model) in zip(labels, models.items(), strict=True)
    }


def score_all(run: StageRunner, config: Any, models: Mapping[str, Any], tasks: tuple[Any, ...]) -> None:
    """Score each of `models` on the same tasks, if there are any."""
    if not tasks and not config.score_tasks.names:
        return
    for name, model in zip(identifiers(models), models.values(), strict=True):
        run.stage(score_tasks, config.score_tasks, label=f"score_tasks-{name}", model=model, tasks=tasks)


def identifiers(names: Iterable[str]) -> list[str]:
    """Make of what somebody typed names that MLflow's metrics and Prefect's tasks take, in the same order, no two the same.

    Of a path that is its end: of word characters, dots and dashes, and no longer than all of them can be.
    """
    given: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.-]+", "-", PurePath(name).name).strip("-.")[:_LONGEST_LABEL] or "model"
        again = (f"{plain}-{number}" for number in itertools.count(2))
        given.append(next(one for one in itertools.chain([plain], again) if one not in given))
    return given
