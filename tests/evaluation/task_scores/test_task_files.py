"""A task that cannot be asked is refused in one sentence, with its file and line, before any work."""

import importlib.util
import json
import sys

import pytest

from leanpipe.assets.resolve import resolve_tasks
from leanpipe.assets.sample_tasks import TASKS
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.home import Home
from leanpipe.evaluation.task_scores.score_tasks import ScoreTasksConfig, check_score_tasks
from leanpipe.evaluation.task_scores.task_files import read_tasks
from tests.support.tiny_models import tiny_model

CHOICE = "kind: multiple_choice\nfile: items.jsonl\nprompt: '{{ question }}'\nchoices: options\n"
CLASSES = "kind: classification\nfile: items.jsonl\nprompt: '{{ question }}'\nanswer: label\n"
TEXT = "kind: exact_match\nfile: items.jsonl\nprompt: '{{ question }}'\n"
GOOD = {"question": "Which?", "options": ["a", "b"], "answer": 1, "label": "yes"}


def lines(*rows) -> str:
    return "\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows) + "\n"


TWO = lines(GOOD, GOOD)


def write(folder, spec=CHOICE, items=TWO, name="mine"):
    (folder / "items.jsonl").write_bytes(items if isinstance(items, bytes) else items.encode())
    file = folder / f"{name}.yaml"
    file.write_text(spec)
    return file


BAD = {
    "empty": (CHOICE, "", "items.jsonl holds no items of a task"),
    "blank": (CHOICE, "\n \n", "holds no items of a task"),
    "one item": (CHOICE, lines(GOOD), "holds 1 items of a task: at least 2"),
    "fewer than shots": (CHOICE + "shots: 2\n", lines(GOOD, GOOD), "at least 3 for 2 shots"),
    "cut off": (CHOICE, lines(GOOD, '{"question": '), "items.jsonl, line 2 is no JSON"),
    "a list": (CHOICE, lines(GOOD, "", [1]), "line 3 is no JSON object"),
    "binary": (CHOICE, b"\xff\xfe\x00", "cannot be read"),
    "no answer": (TEXT, lines(GOOD, {"question": "Why?"}), "line 2 has no answer"),
    "empty answer": (TEXT, lines(GOOD, {**GOOD, "answer": " "}), "line 2 has no answer"),
    "no answers at all": (CLASSES, lines({"question": "a"}, {"question": "b"}), "not two different answers"),
    "one class": (CLASSES, lines(GOOD, GOOD), "not two different answers"),
    "another answer": (CHOICE, lines(GOOD, {**GOOD, "answer": "c"}), "'c' is none of the choices"),
    "place of none": (CHOICE, lines(GOOD, {**GOOD, "answer": 2}), "no place among its 2 choices"),
    "no choices": (CHOICE, lines(GOOD, {"question": "a", "answer": 0}), "line 2 has no list of at least two"),
    "same choices": (CHOICE, lines(GOOD, {**GOOD, "options": ["a", "a"]}), "line 2 has no list of at least"),
    "no field": (CHOICE, lines(GOOD, {"options": ["a", "b"]}), "line 2: the prompt cannot be filled in"),
    "empty prompt": (CHOICE, lines(GOOD, {**GOOD, "question": ""}), "line 2: the prompt is empty"),
    "no file": (CHOICE.replace("items", "others"), lines(GOOD), "others.jsonl does not exist"),
    "no yaml": ("kind: [", lines(GOOD), "cannot be read as YAML"),
    "no names": ("- a\n", lines(GOOD), "says nothing by name"),
    "unknown kind": (CHOICE.replace("multiple_choice", "essay"), lines(GOOD), "kind: Input should be"),
    "misspelt": (CHOICE + "shot: 1\n", lines(GOOD), "shot: Extra inputs"),
    "template": (CHOICE.replace("}}", ""), lines(GOOD), "no Jinja template"),
    "choices unsaid": (CHOICE.replace("choices: options\n", ""), lines(GOOD), "choices: a multiple choice needs"),
}  # fmt: skip


THEIRS = (
    "dataset_path: json\ndataset_kwargs: {data_files: {test: items.jsonl}}\ntest_split: test\noutput_type: multiple_choice\n"
    "doc_to_text: '{{ question }}'\ndoc_to_choice: options\ndoc_to_target: answer\n"
)
BAD |= {
    "theirs elsewhere": (THEIRS.replace("json\n", "allenai/arc\n", 1), lines(GOOD), "does not name its files"),
    "theirs no file": (THEIRS.replace("items.", "others."), lines(GOOD), "others.jsonl does not exist"),
    "theirs with code": (THEIRS + "process_docs: !function utils.docs\n", lines(GOOD), "cannot be read as YAML"),
    "theirs no answer": (THEIRS, lines(GOOD, {**GOOD, "answer": 5}), "item 2 has no answer"),
    "theirs malformed": (THEIRS, lines(GOOD, "{"), "lm-eval cannot make it"),
    "theirs unknown metric": (THEIRS + "metric_list: [{}]\n", lines(GOOD, GOOD), "lm-eval cannot make it"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_asked_is_said_in_one_sentence(tmp_path, case):
    spec, items, says = BAD[case]
    file = write(tmp_path, spec, items)
    with pytest.raises(UserError) as raised:
        check_score_tasks(ScoreTasksConfig(), {"model": Expected(), "tasks": (Expected(file),)})
    said = str(raised.value)
    assert says in said and "\n" not in said and str(tmp_path) in said


def test_answers_are_texts_or_places(tmp_path):
    rows = [GOOD, {**GOOD, "answer": "a"}, {**GOOD, "options": [3, 7], "answer": 7}]
    task = read_tasks([write(tmp_path, items=lines(*rows))])[0][0]
    assert [one.answer for one in task.items] == ["b", "a", "7"]
    assert task.name == "mine" and task.items[2].choices == ("3", "7")
    labelled = [GOOD, {**GOOD, "label": "no"}, {**GOOD, "label": True}]
    classes = read_tasks([write(tmp_path, CLASSES, lines(*labelled))])[0][0]
    assert classes.items[0].choices == ("no", "true", "yes")


def test_a_task_is_its_content_and_that_of_its_items(tmp_path):
    file, home = write(tmp_path), Home(tmp_path / "home")

    def digest() -> str:
        return resolve_tasks((str(file),), home)[0].digest

    first = digest()
    assert first == digest()
    write(tmp_path, items=lines(GOOD, GOOD, GOOD))
    assert digest() != first
    write(tmp_path, CHOICE + "shots: 1\n")
    assert digest() != first
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        resolve_tasks((str(tmp_path / "nowhere.yaml"),), home)


def test_two_tasks_of_one_name_are_refused(tmp_path):
    files = [write(tmp_path, f"task: same\n{CHOICE}", name=name) for name in ("one", "two")]
    with pytest.raises(UserError, match="two are called same"):
        read_tasks(files)


def test_a_missing_package_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert importlib.util.find_spec("sacrebleu") is None
    with pytest.raises(UserError, match=r"sacrebleu is not installed: run pip install 'leanpipe\[tasks\]'"):
        check_score_tasks(ScoreTasksConfig(), {"model": Expected(), "tasks": (Expected(write(tmp_path)),)})


def test_answers_longer_than_the_model_reads_and_a_template_that_is_not_there_are_refused(tmp_path):
    model = tiny_model(tmp_path / "model")
    file = write(tmp_path, TEXT + "max_new_tokens: 600\n")
    given = {"model": Expected(model), "tasks": (Expected(file),)}
    with pytest.raises(UserError, match="reads 512 at most"):
        check_score_tasks(ScoreTasksConfig(), given)
    (model / "chat_template.jinja").unlink()
    given["tasks"] = (Expected(write(tmp_path)),)
    check_score_tasks(ScoreTasksConfig(), given)
    with pytest.raises(UserError, match="has no chat template"):
        check_score_tasks(ScoreTasksConfig(chat_template=True), given)


def test_names_that_lm_eval_does_not_know_or_whose_data_is_out_of_reach_are_said(tmp_path, monkeypatch):
    """There is no hub in the tests."""
    from lm_eval import tasks

    # Its index of 14,000 tasks takes seconds to read: one folder of them is enough.
    folder = tmp_path.joinpath("arc")
    folder.symlink_to(next(iter(tasks.__path__)) + "/arc")
    manager = tasks.TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr("leanpipe.evaluation.task_scores.lm_eval_tasks._index", lambda: manager)
    for name, says in (
        ("arc_difficult", "lm-eval has no task arc_difficult"),
        ("arc_easy", "cannot be had here"),
    ):
        with pytest.raises(UserError, match=says):
            check_score_tasks(ScoreTasksConfig(names=(name,)), {"model": Expected()})


@pytest.mark.parametrize("name", TASKS)
def test_tasks_that_need_no_files_can_be_asked(tmp_path, name):
    (task,) = resolve_tasks((name,), Home(tmp_path))
    check_score_tasks(ScoreTasksConfig(), {"model": Expected(), "tasks": (Expected(task.path),)})
    ((own,), _) = read_tasks([task.path])
    assert own.name == name and len(own.items) > 200
    assert all(len(item.choices) == 4 for item in own.items)
    assert len({item.choices.index(item.answer) for item in own.items}) == 4, "no place is always right"
