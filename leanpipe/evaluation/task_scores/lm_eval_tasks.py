"""Tasks as lm-eval runs them: made of a person's own, or taken from those that it knows by name."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager

from leanpipe.core.errors import UserError, reason
from leanpipe.evaluation.task_scores.lm_eval_files import LmEvalTask
from leanpipe.evaluation.task_scores.task_files import CHOSEN, OwnTask
from leanpipe.evaluation.task_scores.text_metrics import ROUGE, macro_f1, rouge

_SEED = 1234
"""By which the shown examples are drawn, as lm-eval's own command does."""
_METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("acc",),
    "multiple_choice": ("acc", "acc_norm"),
    "exact_match": ("exact_match",),
    "translation": ("bleu", "chrf"),
    "summary": (),
}
_AGGREGATED = {"bleu": "bleu", "chrf": "chrf"}


def lm_eval_tasks(
    own: Sequence[OwnTask], others: Sequence[LmEvalTask], names: Sequence[str]
) -> dict[str, Task]:
    """Make the tasks, by name. Raises UserError for a name that lm-eval does not know, or whose data cannot be reached."""
    tasks: dict[str, Task] = {one.name: ConfigurableTask(config=_config(one)) for one in own}
    tasks |= {one.name: _made(one) for one in others}
    for name, task in _named(names).items():
        if name in tasks:
            raise UserError(
                f"tasks: one of yours is called {name}, as one of lm-eval's: give it another name (task:)"
            )
        tasks[name] = task
    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEED)
    return tasks


def _named(names: Sequence[str]) -> dict[str, Task]:
    if not names:
        return {}
    manager = _index()
    found: dict[str, Task] = {}
    for name in names:
        if name not in manager.all_tasks:
            raise UserError(
                f"score_tasks.names: lm-eval has no task {name}: `lm-eval ls tasks` lists those that it has; a task of your own "
                "is a file, named in tasks"
            )
        try:
            found |= manager.load([name])["tasks"]
        except (
            Exception
        ) as error:  # of the hub, of a data set's reader, of a package that the task alone needs
            raise UserError(
                f"score_tasks.names: the data of {name} cannot be had here ({reason(error)}): run where the hub can be reached, "
                "or write the task as a file, which needs none"
            ) from error
    for name, task in found.items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise UserError(
                f"score_tasks.names: {name} runs code that a model writes, or shows it pictures: leave it out"
            )
    return found


@cache
def _index() -> TaskManager:
    """What lm-eval knows: 14,000 YAML files, which take seconds to read."""
    return TaskManager()


def _made(task: LmEvalTask) -> Task:
    """Make a task of what a person wrote for lm-eval. Raises UserError if it cannot be made, or an item has no answer."""
    try:
        made = ConfigurableTask(config=copy.deepcopy(dict(task.config)))
        answers = [_answer_of(made, item) for item in made.eval_docs]
    except Exception as error:  # whatever is wrong with its fields, templates, metrics or files
        raise UserError(
            f"the task {task.file}: lm-eval cannot make it ({type(error).__name__}: {reason(error)}): mend it"
        ) from error
    if len(answers) < 2 or "" in answers:
        line = (
            f"item {answers.index('') + 1} has no answer" if "" in answers else f"it has {len(answers)} items"
        )
        raise UserError(
            f"the task {task.file}: {line}: at least 2 items are needed, each with an answer (doc_to_target)"
        )
    return made


def _answer_of(task: Task, item: dict[str, Any]) -> str:
    """The answer as text; nothing if there is none, or none among the choices."""
    answer = task.doc_to_target(item)
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(item)
        some = answer if isinstance(answer, list) else [answer]
        known = all(one in choices or (isinstance(one, int) and 0 <= one < len(choices)) for one in some)
        return str(answer) if some and known else ""
    return "" if answer is None else str(answer).strip()


def _config(task: OwnTask) -> dict[str, Any]:
    spec = task.spec
    rows = [{"prompt": one.prompt, "answer": one.answer, "choices": list(one.choices)} for one in task.items]

    def data(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list(rows)}

    config: dict[str, Any] = {
        "task": task.name,
        "custom_dataset": data,
        "test_split": "test",
        "fewshot_split": "test",
        "num_fewshot": spec.shots,
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": name, "aggregation": _AGGREGATED.get(name, "mean"), "higher_is_better": True}
            for name in _METRICS[spec.kind]
        ],
    }
    if spec.kind in CHOSEN:
        config |= {"output_type": "multiple_choice", "doc_to_choice": "choices"}
    else:
        config |= {
            "output_type": "generate_until",
            "generation_kwargs": {
                "until": list(spec.stops),
                "max_gen_toks": spec.max_new_tokens,
                "do_sample": False,
            },
            "filter_list": [
                {"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
            ],
        }
    if spec.kind == "classification":
        f1 = {"metric": "f1", "aggregation": macro_f1, "higher_is_better": True}
        config["metric_list"].append(f1)
    if spec.kind == "summary":
        config["process_results"] = lambda doc, said: rouge(doc["answer"], said[0])
        config["metric_list"] = [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ROUGE
        ]
    return config
