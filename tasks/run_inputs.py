"""From what the person wrote to artifacts on this machine, with every check that needs no long work."""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from leanpipe.assets.resolve import (
    check_own_corpora,
    fetch_ahead,
    resolve_corpus,
    resolve_evaluation_sets,
    resolve_instructions,
    resolve_model,
    resolve_prompts,
    resolve_tasks,
)
from leanpipe.core.store import Artifact
from leanpipe.planning.steps import RunInputs
from tasks.run import Run
from tasks.tracking.progress import say
from tasks.tracking.registry import find_registered

log = logging.getLogger("leanpipe.run")


@task(name="resolve", task_run_name="resolve", persist_result=False, cache_policy=NO_CACHE)
def resolve(
    run: Run,
    *,
    corpus: tuple[str, ...] = (),
    models: tuple[str, ...] = (),
    instructions: str | None = None,
    evaluation_sets: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    prompt_set: str | None = None,
) -> RunInputs:
    """Find or fetch everything that a run is given. Raises UserError naming what is not there."""
    made: tuple[Artifact, ...] | None = None
    if models and fetch_ahead((*corpus, instructions), run.home):
        check_own_corpora(corpus, run.home)  # a mistake in them need not wait for a model
        made = _models(run, models)
    given = RunInputs(
        resolve_corpus(corpus, run.home, _warn) if corpus else (),
        _models(run, models) if made is None else made,
        resolve_instructions(instructions, run.home) if instructions else None,
        resolve_evaluation_sets(evaluation_sets, run.home),
        resolve_tasks(tasks, run.home),
        resolve_prompts(prompt_set, run.home) if prompt_set else None,
    )
    run.tracking.log_inputs(run.mlflow_run, given.named())
    return given


def _models(run: Run, references: tuple[str, ...]) -> tuple[Artifact, ...]:
    """Models: each a registered one, as NAME@ALIAS or NAME@VERSION, or one that lies somewhere."""
    return tuple(
        find_registered(reference) or resolve_model(reference, run.home, run.compute_first)
        for reference in references
    )


def _warn(sentence: str) -> None:
    """Tell the run's page and the terminal."""
    log.warning("%s", sentence)
    say(f"leanpipe: {sentence}")
