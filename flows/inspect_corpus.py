"""A dry run: what cleaning would drop of a corpus, before anything is dropped."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.corpus.dry_run import InspectConfig, inspect
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import InspectSettings
from tasks.run import tracked_run
from tasks.run_inputs import resolve


@flow(name="inspect-corpus")
def inspect_corpus(config: InspectSettings = InspectSettings()) -> RunResult:
    """Show what each rule of cleaning would drop of a sample, and drop nothing.

    Args:
        config: The corpus, what would be kept of it, and how large the sample is.
    """
    with tracked_run("inspect-corpus", config) as run:
        given = resolve(run, corpus=config.corpus, evaluation_sets=config.evaluation_sets)
        stages(run, config, given)
        return show(run)


def stages(run: StageRunner, config: InspectSettings, given: RunInputs) -> None:
    """Look at a sample of the corpus."""
    tried = InspectConfig(clean=config.clean, **dict(config.inspect))
    run.stage(inspect, tried, corpus=given.corpus, evaluations=given.evaluation_sets)
