"""Compression alone, of any model."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.compression.quantize import quantize
from leanpipe.settings.flows import CompressSettings
from tasks.plan import plan
from tasks.resolve import preflight, resolve
from tasks.run import tracked_run


@flow(name="compress")
def compress_model(config: CompressSettings = CompressSettings()) -> RunResult:
    """Quantise a model.

    Args:
        config: The model, and the formats to make of it.
    """
    with tracked_run("compress", config) as run:
        given = resolve(run, models=(config.model,))
        preflight(run, given, quantize=config.quantize)
        plan(run, config, given)
        run.stage(quantize, config.quantize, model=given.model)
        return show(run)
