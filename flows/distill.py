"""A student alone: the corpus is prepared if it is not yet, and the student distilled."""

from typing import Any, NamedTuple

from prefect import flow

from flows.results import RunResult, show
from leanpipe.corpus.clean import clean
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import DistillSettings
from leanpipe.tokens.tokenize import tokenize
from leanpipe.training.distill.distill import distill
from leanpipe.training.distill.teacher_cache import cache_config, cache_teacher
from leanpipe.training.vocabulary.cut_vocabulary import cut_vocabulary
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
    """Prepare the corpus, ask the teacher once for all that the student will read, and distil."""
    documents = run.stage(clean, config.clean, corpus=given.corpus, evaluations=given.evaluation_sets)
    teacher = given.model
    if config.cut_vocabulary.keep == "used" and config.tokenize.tokenizer == "teacher":
        teacher = run.stage(
            cut_vocabulary,
            config.cut_vocabulary,
            teacher=teacher,
            documents=documents,
            instructions=given.instructions,
            evaluation_sets=given.evaluation_sets,
        )
    blocks = run.stage(tokenize, config.tokenize, documents=documents, teacher=teacher)
    teacher_logprobs = None
    if config.distill.uses_cache:
        asked = cache_config(config.cache, blocks, config.distill.tokens)
        teacher_logprobs = run.stage(cache_teacher, asked, teacher=teacher, blocks=blocks)
    student = run.stage(
        distill, config.distill, teacher=teacher, blocks=blocks, teacher_logprobs=teacher_logprobs
    )
    return Distilled(documents, teacher, student, blocks, teacher_logprobs)
