"""Finetuning alone, of any model."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.settings.flows import FinetuneSettings
from leanpipe.training.finetune.finetune import finetune
from tasks.plan import plan
from tasks.resolve import preflight, resolve
from tasks.run import tracked_run


@flow(name="finetune")
def finetune_model(config: FinetuneSettings = FinetuneSettings()) -> RunResult:
    """Finetune a model on instructions with LoRA, and merge.

    Args:
        config: The model, the instructions, and how it learns.
    """
    with tracked_run("finetune", config) as run:
        given = resolve(run, models=(config.model,), instructions=config.instructions)
        preflight(run, given, finetune=config.finetune)
        plan(run, config, given)
        run.stage(finetune, config.finetune, model=given.model, instructions=given.instructions)
        return show(run)
