"""Evaluation alone: any models, side by side on the same held-out text."""

from collections.abc import Mapping
from typing import Any

from prefect import flow

from flows.results import RunResult, show
from leanpipe.corpus.clean import clean
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import CompareSettings
from tasks.preflight import preflight
from tasks.run import tracked_run
from tasks.run_inputs import resolve


@flow(name="evaluate")
def evaluate_models(config: CompareSettings = CompareSettings()) -> RunResult:
    """Measure models on the held-out part of a corpus.

    Args:
        config: The models, the corpus, and what is measured.
    """
    with tracked_run("evaluate", config) as run:
        given = resolve(
            run, corpus=config.corpus, models=config.models, evaluation_sets=config.evaluation_sets
        )
        preflight(run, stages, config, given)
        return show(run, stages(run, config, given))


def stages(run: StageRunner, config: CompareSettings, given: RunInputs) -> Mapping[str, Any]:
    """Clean the corpus, and evaluate each model on what was held out of it: the evaluations by the models' names."""
    documents = run.stage(clean, config.clean, corpus=given.corpus, evaluations=given.evaluation_sets)
    return evaluate_all(run, config, {model.name: model for model in given.models}, documents)


def evaluate_all(run: StageRunner, config: Any, models: Mapping[str, Any], documents: Any) -> dict[str, Any]:
    """The evaluations of `models`, all on the same documents, by the same names."""
    return {
        label: run.stage(
            evaluate, config.evaluate, label=f"evaluate-{label}", model=model, documents=documents
        )
        for label, model in models.items()
    }
