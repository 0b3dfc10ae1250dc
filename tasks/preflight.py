"""What can be known before a run: a refusal of what cannot work or cannot fit, and the plan of the rest."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.planning.machine import machine
from leanpipe.planning.plan import plan_flow
from leanpipe.planning.preflight import CheckConfig, check
from leanpipe.planning.steps import RunInputs, Story
from tasks.run import Run
from tasks.tracking.pages import show_page


@task(name="preflight", task_run_name="preflight", persist_result=False, cache_policy=NO_CACHE)
def preflight(run: Run, story: Story, settings: StageConfig, given: RunInputs) -> None:
    """Check the settings of every stage of `story`, and estimate its memory, disk and time, on the page of the run.

    Raises UserError for what a stage would refuse, and for what does not fit this machine.
    """
    plan = plan_flow(
        story, settings, given, machine("this", run.store.root), run.store, run.compute_untracked
    )
    steps = tuple(step.portable() for step in plan.steps)
    several = {
        "corpus": given.corpus,
        "models": given.models,
        "evaluation_sets": given.evaluation_sets,
        "tasks": given.tasks,
    }
    inputs = {name: value for name, value in several.items() if value}
    alone = {"instructions": given.instructions, "prompt_set": given.prompt_set}
    inputs |= {name: one for name, one in alone.items() if one}
    run.compute_untracked(check, CheckConfig(device=device.name(), steps=steps), inputs)
    markdown = plan.markdown()
    show_page(markdown, "plan", "Memory, disk and time that this run will take")
    run.tracking.log_text(run.mlflow_run, markdown, "plan.md")
    plan.check()
