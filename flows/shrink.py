"""A student's shape alone: the corpus is prepared if it is not yet, and the teacher cut to size."""

from typing import Any, NamedTuple

from prefect import flow

from flows.results import RunResult, show
from leanpipe.corpus.clean import clean
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import ShrinkSettings, VocabularySettings
from leanpipe.shrink.low_rank import low_rank
from leanpipe.shrink.multiply_out import MultiplyOutConfig, multiply_out
from leanpipe.shrink.prune import prune
from leanpipe.shrink.shrink import shrink
from leanpipe.tokens.tokenize import tokenize
from leanpipe.training.vocabulary.cut_vocabulary import cut_vocabulary
from tasks.preflight import preflight
from tasks.run import tracked_run
from tasks.run_inputs import resolve


@flow(name="shrink")
def shrink_teacher(config: ShrinkSettings = ShrinkSettings()) -> RunResult:
    """Cut a teacher to a student's size and shape, by what of it matters on a corpus.

    Args:
        config: The corpus, the teacher, and the size and shape of the student.
    """
    with tracked_run("shrink", config) as run:
        given = resolve(
            run, corpus=config.corpus, models=(config.teacher,), evaluation_sets=config.evaluation_sets
        )
        preflight(run, stages, config, given)
        stages(run, config, given)
        return show(run)


class Prepared(NamedTuple):
    """What comes of the corpus and the teacher before anything is cut from its layers."""

    documents: Any
    teacher: Any
    """What the student is cut from: of its vocabulary."""
    blocks: Any


def prepare(run: StageRunner, config: VocabularySettings, given: RunInputs) -> Prepared:
    """Prepare the corpus, and cut the teacher's vocabulary to what it needs."""
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
    return Prepared(documents, teacher, blocks)


def student_of(run: StageRunner, config: ShrinkSettings, prepared: Prepared) -> Any:
    """Cut the teacher to the student's shape, and make its matrices sparse, or of low rank, if that is asked for."""
    student = run.stage(shrink, config.shrink, teacher=prepared.teacher, blocks=prepared.blocks)
    if config.prune.sparsity:
        student = run.stage(prune, config.prune, model=student, blocks=prepared.blocks)
    if not config.low_rank.is_whole:
        student = run.stage(low_rank, config.low_rank, model=student, blocks=prepared.blocks)
    return student


def as_saved(run: StageRunner, config: ShrinkSettings, student: Any) -> Any:
    """Multiply out the student's factors, once they have learned, if it has some and is to be a plain model."""
    if config.low_rank.is_whole or config.low_rank.saved == "factored":
        return student
    return run.stage(multiply_out, MultiplyOutConfig(), model=student)


def stages(run: StageRunner, config: ShrinkSettings, given: RunInputs) -> None:
    """Prepare the corpus, and cut the teacher's vocabulary to what it needs, and then its shape."""
    as_saved(run, config, student_of(run, config, prepare(run, config, given)))
