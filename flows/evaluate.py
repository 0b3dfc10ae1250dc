"""Evaluation alone: any models, side by side on the same held-out text."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.settings.flows import CompareSettings
from tasks.corpus import cleaned
from tasks.plan import plan
from tasks.resolve import resolve
from tasks.run import tracked_run


@flow(name="evaluate")
def evaluate_models(config: CompareSettings = CompareSettings()) -> RunResult:
    """Measure models on the held-out part of a corpus.

    Args:
        config: The models, the corpus, and what is measured.
    """
    with tracked_run("evaluate", config) as run:
        given = resolve(run, corpus=config.corpus, models=config.models, evaluations=config.evaluation_sets)
        plan(run, config, given)
        documents = cleaned(run, config, given)
        evaluations = {
            model.name: run.stage(
                evaluate, config.evaluate, label=f"evaluate-{model.name}", model=model, documents=documents
            )
            for model in given.models
        }
        return show(run, evaluations)
