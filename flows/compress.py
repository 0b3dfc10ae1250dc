"""Compression alone, of any model."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.compression.quantize import quantize, with_formats
from leanpipe.models.describe_model import describe_model
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import CompressSettings
from tasks.preflight import preflight
from tasks.run import tracked_run
from tasks.run_inputs import resolve


@flow(name="compress")
def compress_model(config: CompressSettings = CompressSettings()) -> RunResult:
    """Quantise a model.

    Args:
        config: The model, and the formats to make of it.
    """
    with tracked_run("compress", config) as run:
        given = resolve(run, models=(config.model,))
        preflight(run, stages, config, given)
        stages(run, config, given)
        return show(run)


def stages(run: StageRunner, config: CompressSettings, given: RunInputs) -> None:
    """Count the model's parameters, and quantise it."""
    run.stage(describe_model, config.describe_model, model=given.model)
    run.stage(quantize, with_formats(config.quantize, given.model), model=given.model)
