"""Two models compared by people, who do not know which answer is whose."""

from collections.abc import Sequence
from pathlib import PurePath

from prefect import flow

from flows.evaluate import identifiers
from flows.results import RunResult, show
from leanpipe.core.store import Artifact
from leanpipe.evaluation.human.answer_prompts import answer_prompts
from leanpipe.evaluation.human.blind_sheets import blind_sheets
from leanpipe.evaluation.human.count_votes import CountVotesConfig, count_votes
from leanpipe.evaluation.human.read_votes import open_sheets
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.settings.flows import HumanEvaluationSettings
from tasks.preflight import preflight
from tasks.run import tracked_run
from tasks.run_inputs import resolve
from tasks.votes import gather_votes, show_preference, show_sheets


@flow(name="human-evaluation")
def evaluate_by_people(config: HumanEvaluationSettings = HumanEvaluationSettings()) -> RunResult:
    """Have people vote on two models' answers without knowing which is whose, and say which model they prefer.

    Args:
        config: The two models, what they are asked, and the votes, if there are some already.
    """
    open_sheets(config.votes)  # what is not there is refused before any work
    with tracked_run("human-evaluation", config) as run:
        given = resolve(run, models=config.models, prompt_set=config.prompt_set)
        preflight(run, stages, config, given)
        sheets = stages(run, config, given)
        show_sheets(run, sheets)
        if votes := gather_votes(run.home, sheets, config.votes, config.wait_hours):
            first, second = names(config.models)
            called = CountVotesConfig(first=first, second=second)
            counted = run.stage(count_votes, called, label="votes", sheets=sheets, votes=votes)
            show_preference(run, counted)
        return show(run)


def stages(run: StageRunner, config: HumanEvaluationSettings, given: RunInputs) -> Artifact:
    """Have both models answer, and put their answers side by side: the sheets."""
    answers = [
        run.stage(
            answer_prompts,
            config.answer_prompts,
            label=f"answer_prompts-{name}",
            model=model,
            prompt_set=given.prompt_set,
        )
        for name, model in zip(identifiers(config.models), given.models, strict=True)
    ]
    return run.stage(blind_sheets, config.blind_sheets, first=answers[0], second=answers[1])


def names(models: Sequence[str]) -> list[str]:
    """What the models are called: the ends of their paths, if they differ."""
    ends = [PurePath(model).name or model for model in models]
    return ends if len(set(ends)) == len(ends) else list(models)
