"""A dry run: what cleaning would drop of a corpus, before anything is dropped."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.corpus.dry_run import InspectConfig, inspect
from leanpipe.settings.flows import InspectSettings
from tasks.resolve import resolve
from tasks.run import tracked_run


@flow(name="inspect-corpus")
def inspect_corpus(config: InspectSettings = InspectSettings()) -> RunResult:
    """Show what each rule of cleaning would drop of a sample, and drop nothing.

    Args:
        config: The corpus, what would be kept of it, and how large the sample is.
    """
    with tracked_run("inspect-corpus", config) as run:
        given = resolve(run, corpus=config.corpus, evaluations=config.evaluation_sets)
        tried = InspectConfig(clean=config.clean, **dict(config.inspect))
        run.stage(inspect, tried, corpus=given.corpus, evaluations=given.evaluations)
        return show(run)
