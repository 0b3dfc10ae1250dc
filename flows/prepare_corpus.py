"""The corpus alone: cleaned, split and tokenised."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.settings.flows import TokenSettings
from tasks.corpus import cleaned, tokenized
from tasks.resolve import resolve
from tasks.run import tracked_run


@flow(name="prepare-corpus")
def prepare_corpus(config: TokenSettings = TokenSettings()) -> RunResult:
    """Clean a corpus, split it and pack it into blocks of tokens.

    Args:
        config: The corpus, what is kept of it, and the tokenizer.
    """
    with tracked_run("prepare-corpus", config) as run:
        given = resolve(
            run, corpus=config.corpus, models=(config.teacher,), evaluations=config.evaluation_sets
        )
        documents = cleaned(run, config, given)
        tokenized(run, config, given, documents)
        return show(run)
