"""The corpus alone: cleaned, split and tokenised."""

from typing import Any

from prefect import flow

from flows.results import RunResult, show
from leanpipe.corpus.clean import clean
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import TokenSettings
from leanpipe.tokens.tokenize import tokenize
from tasks.run import tracked_run
from tasks.run_inputs import resolve


@flow(name="prepare-corpus")
def prepare_corpus(config: TokenSettings = TokenSettings()) -> RunResult:
    """Clean a corpus, split it and pack it into blocks of tokens.

    Args:
        config: The corpus, what is kept of it, and the tokenizer.
    """
    with tracked_run("prepare-corpus", config) as run:
        given = resolve(
            run, corpus=config.corpus, models=(config.teacher,), evaluation_sets=config.evaluation_sets
        )
        stages(run, config, given)
        return show(run)


def stages(run: StageRunner, config: TokenSettings, given: RunInputs) -> tuple[Any, Any]:
    """Clean the corpus, and cut it into blocks of tokens: both results."""
    documents = run.stage(clean, config.clean, corpus=given.corpus, evaluations=given.evaluation_sets)
    return documents, run.stage(tokenize, config.tokenize, documents=documents, teacher=given.model)
