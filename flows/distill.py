"""A student alone: the corpus is prepared if it is not yet, and the student distilled."""

from typing import Any, NamedTuple

from prefect import flow

from flows.results import RunResult, show
from flows.shrink import as_saved, prepare, student_of
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import DistillSettings
from leanpipe.teacher_text.write import write, write_config
from leanpipe.tokens.tokenize import tokenize
from leanpipe.training.distill.distill import distill, with_recipe
from leanpipe.training.distill.teacher_cache import cache_config, cache_teacher
from tasks.preflight import preflight
from tasks.run import tracked_run
from tasks.run_inputs import resolve


@flow(name="distill")
def distill_student(config: DistillSettings = DistillSettings()) -> RunResult:
    """Distil a student from a teacher on a corpus.

    Args:
        config: The corpus, the teacher, and how the student learns.
    """
    with tracked_run("distill", config) as run:
        given = resolve(
            run, corpus=config.corpus, models=(config.teacher,), evaluation_sets=config.evaluation_sets
        )
        preflight(run, stages, config, given)
        stages(run, config, given)
        return show(run)


class Distilled(NamedTuple):
    """What comes of the corpus and the teacher."""

    documents: Any
    teacher: Any
    """What the student learned from: of its vocabulary."""
    student: Any
    blocks: Any
    teacher_logprobs: Any
    """None where the teacher is asked at every step."""


def stages(run: StageRunner, config: DistillSettings, given: RunInputs) -> Distilled:
    """Prepare the corpus, cut the teacher to the student's size, ask it once for all that the student will read, and distil."""
    prepared = prepare(run, config, given)
    documents, teacher, blocks = prepared
    begun = student_of(run, config, prepared)
    written = None
    if config.distill.written_share:
        asked = write_config(config.write, config.clean, config.distill.written_share, config.distill.tokens)
        text = run.stage(write, asked, teacher=teacher, documents=documents)
        written = run.stage(
            tokenize, config.tokenize, label="tokenize-written", documents=text, teacher=teacher
        )
    teacher_logprobs = _asked(run, config, teacher, blocks, config.distill.corpus_tokens)
    fresh = config.shrink.initialization == "random"
    student = run.stage(
        distill,
        with_recipe(config.distill, begun, blocks, fresh=fresh),
        teacher=teacher,
        blocks=blocks,
        teacher_logprobs=teacher_logprobs,
        written=written,
        written_logprobs=written
        and _asked(run, config, teacher, written, config.distill.written_tokens, "cache-written"),
        student=begun,
    )
    return Distilled(documents, teacher, as_saved(run, config, student), blocks, teacher_logprobs)


def _asked(
    run: StageRunner,
    config: DistillSettings,
    teacher: Any,
    blocks: Any,
    tokens: int,
    label: str | None = None,
) -> Any:
    """What the teacher predicts in so many tokens of the blocks; None if it is asked while the student learns."""
    if not config.distill.uses_cache:
        return None
    asked = cache_config(config.cache, blocks, tokens)
    return run.stage(cache_teacher, asked, label=label, teacher=teacher, blocks=blocks)
