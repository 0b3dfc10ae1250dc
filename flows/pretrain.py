"""A decoder from scratch: the corpus is prepared if it is not yet, and the model trained on it."""

from prefect import flow

from flows import prepare_corpus
from flows.results import RunResult, show
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import PretrainSettings
from leanpipe.training.pretrain.pretrain import pretrain
from tasks.preflight import preflight
from tasks.run import tracked_run
from tasks.run_inputs import resolve


@flow(name="pretrain")
def pretrain_model(config: PretrainSettings = PretrainSettings()) -> RunResult:
    """Train a decoder from scratch on a corpus.

    Args:
        config: The corpus, the tokenizer, and how deep the model is.
    """
    with tracked_run("pretrain", config) as run:
        given = resolve(
            run, corpus=config.corpus, models=(config.teacher,), evaluation_sets=config.evaluation_sets
        )
        preflight(run, stages, config, given)
        stages(run, config, given)
        return show(run)


def stages(run: StageRunner, config: PretrainSettings, given: RunInputs) -> None:
    """Prepare the corpus, and train on it."""
    _, blocks = prepare_corpus.stages(run, config, given)
    run.stage(pretrain, config.pretrain, blocks=blocks)
