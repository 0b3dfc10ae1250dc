"""A student alone: the corpus is prepared if it is not yet, and the student distilled."""

from typing import Any, NamedTuple

from prefect import flow

from flows.results import RunResult, show
from flows.shrink import prepare, student_of
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import DistillSettings
from leanpipe.training.distill.distill import distill
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


def stages(run: StageRunner, config: DistillSettings, given: RunInputs) -> Distilled:
    """Prepare the corpus, cut the teacher to the student's size, ask it once for all that the student will read, and distil."""
    prepared = prepare(run, config, given)
    documents, teacher, blocks = prepared
    begun = student_of(run, config, prepared)
    teacher_logprobs = None
    if config.distill.uses_cache:
        asked = cache_config(config.cache, blocks, config.distill.tokens)
        teacher_logprobs = run.stage(cache_teacher, asked, teacher=teacher, blocks=blocks)
    student = run.stage(
        distill,
        config.distill,
        teacher=teacher,
        blocks=blocks,
        teacher_logprobs=teacher_logprobs,
        student=begun,
    )
    return Distilled(documents, teacher, student)
