"""A search for the best shape of a student of one size: several are cut, the best few learn for a short time."""

from prefect import flow

from flows.results import RunResult, show
from flows.shrink import prepare
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import SearchSettings
from leanpipe.shrink.search.search_shapes import search_shapes
from leanpipe.training.distill.teacher_cache import cache_config, cache_teacher
from tasks.preflight import preflight
from tasks.run import tracked_run
from tasks.run_inputs import resolve


@flow(name="search-shapes")
def search_for_shapes(config: SearchSettings = SearchSettings()) -> RunResult:
    """Find the best shape of one size: how many layers, how many channels, how many heads.

    Args:
        config: The corpus, the teacher, the size, and how many shapes are tried.
    """
    with tracked_run("search-shapes", config) as run:
        given = resolve(
            run, corpus=config.corpus, models=(config.teacher,), evaluation_sets=config.evaluation_sets
        )
        preflight(run, stages, config, given)
        stages(run, config, given)
        return show(run)


def stages(run: StageRunner, config: SearchSettings, given: RunInputs) -> None:
    """Prepare the corpus, ask the teacher once for what all shapes will read, and compare them."""
    _, teacher, blocks = prepare(run, config, given)
    asked = cache_config(config.cache, blocks, config.search_shapes.tokens)
    teacher_logprobs = run.stage(cache_teacher, asked, teacher=teacher, blocks=blocks)
    run.stage(
        search_shapes,
        config.search_shapes,
        teacher=teacher,
        blocks=blocks,
        teacher_logprobs=teacher_logprobs,
    )
