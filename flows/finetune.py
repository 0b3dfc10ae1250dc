"""Finetuning alone, of any model."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import FinetuneSettings
from leanpipe.training.finetune.finetune import finetune
from tasks.preflight import preflight
from tasks.run import tracked_run
from tasks.run_inputs import resolve


@flow(name="finetune")
def finetune_model(config: FinetuneSettings = FinetuneSettings()) -> RunResult:
    """Finetune a model on instructions with LoRA, and merge.

    Args:
        config: The model, the instructions, and how it learns.
    """
    with tracked_run("finetune", config) as run:
        given = resolve(run, models=(config.model,), instructions=config.instructions)
        preflight(run, stages, config, given)
        stages(run, config, given)
        return show(run)


def stages(run: StageRunner, config: FinetuneSettings, given: RunInputs) -> None:
    """Finetune the model."""
    run.stage(finetune, config.finetune.alone(), model=given.model, instructions=given.instructions)
