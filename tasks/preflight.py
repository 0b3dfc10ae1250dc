"""What can be known before a run: how long its trainings are, a refusal of what cannot work or cannot fit, and the plan of the rest."""

import logging
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.planning.machine import machine
from leanpipe.planning.plan import plan_flow
from leanpipe.planning.preflight import CheckConfig, check
from leanpipe.planning.steps import RunInputs, Story
from leanpipe.planning.within_minutes import (
    choose_lengths,
    find_lengths,
    kept_lengths,
    lengths_config,
    once,
    with_lengths,
)
from tasks.run import Run
from tasks.tracking.pages import show_page
from tasks.tracking.progress import say

log = logging.getLogger("leanpipe.run")


@task(name="preflight", task_run_name="preflight", persist_result=False, cache_policy=NO_CACHE)
def preflight(run: Run, story: Story, settings: StageConfig, given: RunInputs) -> None:
    """Check the settings of every stage of `story`, and estimate its memory, disk and time, on the page of the run.

    Raises UserError for what a stage would refuse, and for what does not fit this machine.
    """
    plan = plan_flow(
        story, settings, given, machine("this", run.store.root), run.store, run.compute_untracked
    )
    steps = tuple(step.portable() for step in plan.steps)
    run.compute_untracked(check, CheckConfig(device=device.name(), steps=steps), _inputs(given))
    markdown = plan.markdown()
    show_page(markdown, "plan", "Memory, disk and time that this run will take")
    run.tracking.log_text(run.mlflow_run, markdown, "plan.md")
    plan.check()


def decide_lengths(run: Run, story: Story, settings: Any, given: RunInputs) -> Any:
    """Return the settings with trainings so long that the run should end within `settings.minutes`; as they are where that is 0."""
    return _decide_lengths(run, story, settings, given) if settings.minutes else settings


@task(name="choose-lengths", task_run_name="choose-lengths", persist_result=False, cache_policy=NO_CACHE)
def _decide_lengths(run: Run, story: Story, settings: Any, given: RunInputs) -> Any:
    """Say what was found, to the terminal, the log and MLflow. Raises UserError for fewer minutes than any sensible run takes."""
    inputs, where = _inputs(given), machine("this", run.store.root)
    kept = run.store.find(choose_lengths.name, choose_lengths.key(lengths_config(settings), inputs))
    if kept is None:
        timed = once(run.compute_untracked)

        def seconds(longer: Any) -> float:
            return plan_flow(story, longer, given, where, run.store, timed).seconds

        found = lengths_config(settings, find_lengths(settings, seconds))
        kept = run.compute_untracked(choose_lengths, found, inputs)
    lengths = kept_lengths(kept.summary)
    log.info("%g minutes: %s", settings.minutes, lengths.sentence)
    say(f"  {settings.minutes:g} minutes: {lengths.sentence}")
    run.tracking.log_parameters(run.mlflow_run, lengths.tokens)
    return with_lengths(settings, lengths.tokens)


def _inputs(given: RunInputs) -> dict[str, Any]:
    """What a run starts from, as `CheckInputs` names it."""
    several = {
        "corpus": given.corpus,
        "models": given.models,
        "evaluation_sets": given.evaluation_sets,
        "tasks": given.tasks,
    }
    inputs: dict[str, Any] = {name: value for name, value in several.items() if value}
    alone = {"instructions": given.instructions, "prompt_set": given.prompt_set}
    return inputs | {name: one for name, one in alone.items() if one}
