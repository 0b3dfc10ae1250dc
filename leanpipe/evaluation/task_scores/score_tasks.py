"""Stage `score_tasks`: how well a model does tasks with known answers, by lm-eval."""

import importlib.util
import io
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import (
    Estimate,
    Expected,
    ExpectedInputs,
    Repeated,
    bytes_of_weight,
    host_bytes,
    process_bytes,
    read_arithmetic,
)
from leanpipe.core.keys import NotInKey
from leanpipe.core.lineage import MEASURES, NOTHING
from leanpipe.core.report import Report
from leanpipe.core.stage import Page, Summary, stage
from leanpipe.core.store import CHECKPOINTS, digest_json
from leanpipe.evaluation.task_scores.lm_eval_files import LmEvalTask
from leanpipe.evaluation.task_scores.task_figures import TaskFigure, figure_of
from leanpipe.evaluation.task_scores.task_files import CHOSEN, OwnTask, read_tasks
from leanpipe.evaluation.task_scores.task_results import PAGE, TaskResult, summary_of, write_results

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_PROMPT = 200
"""Tokens of a prompt, about."""
_ITEMS_OF_NAMED = 1_000
"""Items of a task that lm-eval knows, about, before its data is here."""
_LIBRARIES = 300_000_000
"""Bytes of lm-eval's, scikit-learn's and NLTK's code."""


class ScoreTasksConfig(StageConfig):
    """Which tasks a model is asked, and how."""

    names: tuple[str, ...] = Field((), max_length=100)
    """Names of lm-eval's own tasks, whose data it fetches from the hub, such as `arc_easy`; files of your own are named in
    `tasks`."""

    items: int = Field(500, ge=2, le=10_000_000)
    """At most so many items of each task, from its start."""

    chat_template: bool = False
    """Ask through the model's chat template, as a user would; else prompts are texts to go on from."""

    batch: Annotated[
        int, NotInKey("how many items are answered at once, which changes no more than rounding")
    ] = Field(8, ge=1, le=4_096)
    """Items that are answered at once."""


@dataclass(frozen=True)
class ScoreTasksInputs:
    """A model folder, and files of tasks."""

    model: Path
    tasks: tuple[Path, ...] = ()


def check_score_tasks(config: ScoreTasksConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for a package that is missing, a task that cannot be asked, and a chat template that is not there."""
    from leanpipe.models.count import check_context, tokenizer_folder
    from leanpipe.models.load import load_tokenizer

    missing = [name for name in ("lm_eval", "sacrebleu", "rouge_score") if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(
            f"tasks are scored by lm-eval, and {missing[0]} is not installed: run pip install 'leanpipe[tasks]', or leave tasks "
            "and score_tasks.names empty"
        )
    own, others = read_tasks([one.path for one in _given(inputs) if one.path])
    if config.names or others:
        from leanpipe.evaluation.task_scores.lm_eval_tasks import lm_eval_tasks

        with redirect_stderr(io.StringIO()):
            lm_eval_tasks(own, others, config.names)
    for task in own:
        if task.spec.kind not in CHOSEN:
            asked = f"max_new_tokens of the task {task.name}, and a token of its prompt,"
            check_context(inputs["model"], task.spec.max_new_tokens + 1, asked)
    folder = tokenizer_folder(inputs["model"])
    if config.chat_template and folder and not load_tokenizer(folder).chat_template:
        raise UserError(
            f"score_tasks.chat_template is on, and the model {folder} has no chat template: set it to false"
        )


def estimate_score_tasks(config: ScoreTasksConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `score_tasks` takes: the model, and the logits of one batch."""
    from leanpipe.models.count import expected_config
    from leanpipe.models.offload import loading_bytes
    from leanpipe.training.trainer.memory import size_of

    model = expected_config(inputs["model"])
    size = size_of(model)
    weights = bytes_of_weight() * size.parameters
    parts = {
        "process": process_bytes(kind) + _LIBRARIES,
        "weights": weights,
        "logits": 8 * config.batch * _PROMPT * size.vocabulary,
    }
    peak = max(sum(parts.values()), process_bytes(kind) + loading_bytes(model, size.parameters, kind))
    read, written = 0.0, 0.0
    own, others = read_tasks([one.path for one in _given(inputs) if one.path])
    for task in own:
        items = min(config.items, len(task.items))
        answers = len(task.items[0].choices) if task.spec.kind in CHOSEN else 1
        read += items * answers * (task.spec.shots + 1) * _PROMPT
        written += 0 if task.spec.kind in CHOSEN else items * task.spec.max_new_tokens
    unread = sum(one.path is None for one in _given(inputs)) + len(others) + len(config.names)
    read += unread * min(config.items, _ITEMS_OF_NAMED) * 4 * _PROMPT
    shape: dict[str, Any] = {"length": _PROMPT, "arithmetic": read_arithmetic()}
    repeated = [Repeated("read", model, read, **shape)]
    repeated += [Repeated("write", model, written, **shape)] if written else []
    work = 2.0 * size.parameters * (read + written)
    return Estimate(peak, host_bytes(kind, peak), 5_000_000, work, parts, weights, repeated=tuple(repeated))


def _given(inputs: ExpectedInputs) -> Sequence[Expected]:
    given = inputs.get("tasks", ())
    return (given,) if isinstance(given, Expected) else given


@stage(
    version=1,
    uses_device=True,
    check=check_score_tasks,
    estimate=estimate_score_tasks,
    reads={"model": MEASURES, "tasks": NOTHING},
    pages=(Page(PAGE, "tasks", "How well the model does each task"),),
)
def score_tasks(config: ScoreTasksConfig, inputs: ScoreTasksInputs, out: Path, report: Report) -> Summary:
    """Write `tasks.json` (every figure with its interval), `items.jsonl` (every answer), and a table.

    What was answered when a stage was stopped is not asked again.
    """
    given = {"model": Expected(inputs.model), "tasks": tuple(map(Expected, inputs.tasks))}
    check_score_tasks(config, given)
    own, others = read_tasks(inputs.tasks)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it says at length what it was told
    from leanpipe.evaluation.task_scores.lm_eval_tasks import lm_eval_tasks

    with redirect_stderr(io.StringIO()):  # its progress bars
        tasks = lm_eval_tasks(own, others, config.names)
        found = _asked(config, inputs.model, tasks, out / CHECKPOINTS, report)
    results = [
        result
        for name, task in tasks.items()
        for result in _results(name, task, found["samples"][name], _asked_how(name, config, own, others))
    ]
    summary = summary_of(results)
    report.metrics({name: float(value) for name, value in summary.items()})
    write_results(out, results, found["samples"])
    return summary


def _asked(
    config: ScoreTasksConfig, model: Path, tasks: "Mapping[str, Task]", folder: Path, report: Report
) -> Mapping[str, Any]:
    """Ask the model everything that was not asked before, and return what lm-eval found."""
    import lm_eval
    import torch

    from leanpipe.evaluation.task_scores.lm_eval_models import Answers, Resumable, open_model

    folder.mkdir(exist_ok=True)
    answers = Answers(lambda done, total: report.progress(done, total, "answers"))
    torch.manual_seed(0)
    return lm_eval.evaluate(
        lm=Resumable(open_model(model, config.batch, answers), folder / "answers.db", answers),
        task_dict={"tasks": dict(tasks), "groups": {}, "group_map": {}},
        limit=config.items,
        bootstrap_iters=0,  # the intervals are ours
        apply_chat_template=config.chat_template,
        fewshot_as_multiturn=config.chat_template,
    )


def _asked_how(
    name: str, config: ScoreTasksConfig, own: Sequence[OwnTask], others: Sequence[LmEvalTask]
) -> list[Any]:
    """All but the items that decides what a task's figures mean."""
    ours = (one.spec.model_dump(mode="json", exclude={"file"}) for one in own if one.name == name)
    theirs = ({**one.config, "dataset_kwargs": ""} for one in others if one.name == name)
    return [config.chat_template, next(ours, None) or next(theirs, name)]


def _results(
    name: str,
    task: "Task",
    samples: Sequence[Mapping[str, Any]],
    asked: Sequence[Any],
) -> list[TaskResult]:
    """Every figure of a task: one result for each way in which answers are read. Raises UserError if one is no number."""
    check_answers(name, samples)
    results = []
    for reading in dict.fromkeys(sample["filter"] for sample in samples):
        some = [sample for sample in samples if sample["filter"] == reading]
        if len(some) < 2:
            raise UserError(
                f"the task {name} has {len(some)} item: at least 2 are needed to say how certain a figure is"
            )
        called = (name if reading == "none" else f"{name}-{reading}").replace(".", "-").replace("/", "-")
        figures = {
            metric: _figure(name, metric, task, [sample[metric] for sample in some])
            for metric in some[0]["metrics"]
        }
        items = [sample["doc_hash"] for sample in some]
        results.append(TaskResult(called, digest_json([called, asked, items]), figures))
    return results


def _figure(name: str, metric: str, task: "Task", values: Sequence[Any]) -> TaskFigure:
    from lm_eval.api.metrics import mean

    aggregate = task.aggregation().get(metric, mean)
    figure = figure_of(values, aggregate, bool(task.higher_is_better().get(metric, True)))
    if not math.isfinite(figure.value):
        raise UserError(
            f"{metric} of the task {name} is {figure.value}: no figure of this model would mean anything, so look at the task's "
            "answers and at the model"
        )
    return figure


def check_answers(name: str, samples: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError if the model gave an answer a probability that is no number: it would count as just another answer."""
    for number, sample in enumerate(samples, 1):
        for answer in (answer for answers in sample["resps"] for answer in answers):
            values = answer if isinstance(answer, tuple | list) else (answer,)
            if any(isinstance(one, float) and not math.isfinite(one) for one in values):
                raise UserError(
                    f"the model gives an answer of item {number} of the task {name} a probability of {values[0]}: its weights or its "
                    "arithmetic are broken, so none of its figures would mean anything"
                )
