"""A student alone: the corpus is prepared if it is not yet, and the student distilled."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.settings.flows import DistillSettings
from leanpipe.training.distill.distill import distill
from tasks.corpus import cleaned, tokenized
from tasks.distillation import predicted
from tasks.plan import plan
from tasks.resolve import preflight, resolve
from tasks.run import tracked_run


@flow(name="distill")
def distill_student(config: DistillSettings = DistillSettings()) -> RunResult:
    """Distil a student from a teacher on a corpus.

    Args:
        config: The corpus, the teacher, and how the student learns.
    """
    with tracked_run("distill", config) as run:
        given = resolve(
            run, corpus=config.corpus, models=(config.teacher,), evaluations=config.evaluation_sets
        )
        preflight(run, given, distill=config.distill)
        plan(run, config, given)
        documents = cleaned(run, config, given)
        blocks = tokenized(run, config, given, documents)
        teacher_logprobs = predicted(run, config, given, blocks)
        run.stage(distill, config.distill, teacher=given.model, blocks=blocks, **teacher_logprobs)
        return show(run)
