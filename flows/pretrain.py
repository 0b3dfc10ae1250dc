"""A decoder from scratch: the corpus is prepared if it is not yet, and the model trained on it."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.settings.flows import PretrainSettings
from leanpipe.training.pretrain.pretrain import pretrain
from tasks.corpus import cleaned, tokenized
from tasks.plan import plan
from tasks.resolve import preflight, resolve
from tasks.run import tracked_run


@flow(name="pretrain")
def pretrain_model(config: PretrainSettings = PretrainSettings()) -> RunResult:
    """Train a decoder from scratch on a corpus.

    Args:
        config: The corpus, the tokenizer, and how deep the model is.
    """
    with tracked_run("pretrain", config) as run:
        given = resolve(
            run, corpus=config.corpus, models=(config.teacher,), evaluations=config.evaluation_sets
        )
        preflight(run, given, pretrain=config.pretrain)
        plan(run, config, given)
        documents = cleaned(run, config, given)
        blocks = tokenized(run, config, given, documents)
        run.stage(pretrain, config.pretrain, blocks=blocks)
        return show(run)
