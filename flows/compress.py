"""Compression alone, of any model."""

from typing import Any

from prefect import flow

from flows.results import RunResult, show
from leanpipe.compression.budget.kernel_speed import KernelSpeedConfig, kernel_speed
from leanpipe.compression.budget.sensitivity import SensitivityConfig, sensitivity
from leanpipe.compression.formats import MIXED
from leanpipe.compression.quantize import QuantizeConfig, budget_of, quantize, with_formats
from leanpipe.corpus.clean import clean
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
        given = resolve(
            run, corpus=_corpus(config), models=(config.model,), evaluation_sets=config.evaluation_sets
        )
        preflight(run, stages, config, given)
        stages(run, config, given)
        return show(run)


def _corpus(config: CompressSettings) -> tuple[str, ...]:
    """The text to calibrate on: where there are bounds and no text, the sample."""
    return config.corpus or (("sample",) if budget_of(config.quantize) else ())


def stages(run: StageRunner, config: CompressSettings, given: RunInputs) -> None:
    """Count the model's parameters, and quantise it, with what is measured of it on the corpus, if there is one."""
    run.stage(describe_model, config.describe_model, model=given.model)
    documents = None
    if given.corpus:
        documents = run.stage(clean, config.clean, corpus=given.corpus, evaluations=given.evaluation_sets)
    quantize_measured(run, with_formats(config.quantize, given.model), given.model, documents)


def quantize_measured(
    run: StageRunner, config: QuantizeConfig, model: Any, documents: Any, label: str | None = None
) -> Any:
    """Quantise a model; for the format `mixed` measure before what its bounds need."""
    measured: dict[str, Any] = {"documents": documents}
    if MIXED in config.formats and documents is not None:
        asked = SensitivityConfig(calibration_tokens=config.calibration_tokens, keep=config.keep)
        measured["sensitivity"] = run.stage(sensitivity, asked, model=model, documents=documents)
        if config.min_tokens_per_second:
            measured["speeds"] = run.stage(kernel_speed, KernelSpeedConfig(), model=model)
    return run.stage(quantize, config, label=label, model=model, **measured)
