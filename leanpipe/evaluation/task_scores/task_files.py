"""A person's own tasks: a small YAML file that says what is asked, beside a JSONL file of the items.

```
kind: multiple_choice
file: capitals.jsonl
prompt: "Question: {{ question }}\\nAnswer:"
choices: options
answer: answer
```
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError, reason
from leanpipe.core.store import digest_json
from leanpipe.evaluation.task_scores.lm_eval_files import (
    LmEvalTask,
    is_lm_eval_task,
    lm_eval_data,
    read_lm_eval_task,
)

Kind = Literal["classification", "multiple_choice", "exact_match", "translation", "summary"]
CHOSEN: tuple[Kind, ...] = ("classification", "multiple_choice")
"""Kinds in which the model chooses among given answers; in the others it writes one."""
_FEWEST = 2
_SHOWN_FIELDS = 8


class TaskSpec(StageConfig):
    """What a task asks, and what it is answered by."""

    task: str = Field("", pattern=r"^[\w-]{0,60}$")
    """Name of the task, of letters, digits, _ and -; if empty, that of its file."""
    kind: Kind
    """classification (accuracy, macro F1), multiple_choice (accuracy, and normalised by length), exact_match, translation
    (BLEU, chrF) or summary (ROUGE)."""
    file: str = Field(min_length=1)
    """The items, one JSON object a line; a relative path is beside this file."""
    prompt: str = Field(min_length=1)
    """What the model is asked, as a Jinja template over the fields of an item."""
    answer: str = Field("answer", min_length=1)
    """The field that holds the answer."""
    choices: str | tuple[str, ...] = ()
    """The answers to choose from: the field that holds them, or a list; of a classification by default all that occur."""
    shots: int = Field(0, ge=0, le=100)
    """How many other items are shown before each, with their answers."""
    max_new_tokens: int = Field(64, ge=1, le=10_000)
    """Longest answer that the model may write."""
    until: tuple[str, ...] = ()
    """Texts at which what it writes ends; by default the end of a line, of a summary of a paragraph."""

    @field_validator("prompt")
    @classmethod
    def _prompt_is_a_template(cls, prompt: str) -> str:
        from jinja2 import TemplateSyntaxError

        try:
            _template(prompt)
        except TemplateSyntaxError as error:
            raise ValueError(f"is no Jinja template ({error.message})") from error
        return prompt

    @model_validator(mode="after")
    def _choices_are_said(self) -> "TaskSpec":
        if self.kind == "multiple_choice" and not self.choices:
            raise ValueError("choices: a multiple choice needs the field that holds them, or a list")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which an answer ends."""
        return self.until or (("\n\n",) if self.kind == "summary" else ("\n",))


@dataclass(frozen=True)
class Item:
    """One question with its answer."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Names the item by its content."""
        return digest_json([self.prompt, self.answer, self.choices])[:16]


@dataclass(frozen=True)
class OwnTask:
    """A person's task, read and checked."""

    name: str
    spec: TaskSpec
    items: tuple[Item, ...]


def data_files(task: Path) -> list[Path]:
    """Return where the items of the task in a YAML file lie. Raises UserError if the file is none of a task, or they do not exist."""
    content = _content(task)
    files = lm_eval_data(content, task) if is_lm_eval_task(content) else [_spec(content, task).file]
    found = [task.parent / Path(file).expanduser() for file in files]
    for data in found:
        if not data.is_file():
            raise UserError(
                f"the task {task}: its file {data} does not exist: give a path from where the task lies"
            )
    return found


def read_tasks(files: Sequence[Path]) -> tuple[list[OwnTask], list[LmEvalTask]]:
    """Read tasks with all of their items, and those that lm-eval reads. Raises UserError for what is wrong, with its line."""
    own: list[OwnTask] = []
    others: list[LmEvalTask] = []
    for file in files:
        content = _content(file)
        if is_lm_eval_task(content):
            data_files(file)
            others.append(read_lm_eval_task(content, file, name_of(file)))
        else:
            own.append(_read_task(_spec(content, file), file))
    names = [task.name for task in own] + [task.name for task in others]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"tasks: two are called {name}: give one of them another name (task:)")
    return own, others


def _read_task(spec: TaskSpec, file: Path) -> OwnTask:
    (data,) = data_files(file)
    rows = _rows(data)
    labels = _labels(spec, rows, data)
    items = tuple(_item(spec, row, labels, f"{data}, line {line}") for line, row in rows)
    if len(items) < max(_FEWEST, spec.shots + 1):
        needed = (
            f"{spec.shots + 1} for {spec.shots} shots" if spec.shots else "2 to say how certain a figure is"
        )
        raise UserError(f"{data} holds {len(items)} items of a task: at least {needed} are needed; add some")
    return OwnTask(spec.task or name_of(file), spec, items)


_DO = "write kind, file, prompt and answer, as docs/evaluation.md shows"


def _content(file: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(file.read_text())
    except (OSError, ValueError, RecursionError, YAMLError) as error:
        raise UserError(f"the task {file} cannot be read as YAML ({reason(error)}): {_DO}") from error
    if not isinstance(content, dict):
        raise UserError(f"the task {file} says nothing by name: {_DO}")
    return content


def _spec(content: Mapping[str, Any], file: Path) -> TaskSpec:
    try:
        return TaskSpec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise UserError(f"the task {file}: {f'{where}: ' if where else ''}{said}: {_DO}") from error


def name_of(file: Path) -> str:
    """Make the name of a task of that of its file."""
    return "".join(sign if sign.isalnum() or sign in "_-" else "-" for sign in file.stem)[:60]


def _rows(data: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """The lines that are not empty, with their numbers."""
    try:
        lines = data.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the items {data} of a task cannot be read ({reason(error)}): give a JSONL file in UTF-8"
        ) from error
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{data}, line {number} is no JSON ({reason(error)}): write one object a line, or take it out"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{data}, line {number} is no JSON object with fields: write one, or take it out")
        rows.append((number, row))
    if not rows:
        raise UserError(f"{data} holds no items of a task: write one JSON object a line")
    return rows


def _item(spec: TaskSpec, row: Mapping[str, Any], labels: tuple[str, ...], where: str) -> Item:
    try:
        prompt = _template(spec.prompt).render(row)
    except Exception as error:  # whatever a template divides or adds
        raise UserError(
            f"{where}: the prompt cannot be filled in ({reason(error)}); the item has {_fields(row)}"
        ) from error
    if not prompt.strip():
        raise UserError(f"{where}: the prompt is empty: fill its fields in, or take the line out")
    if spec.kind not in CHOSEN:
        return Item(prompt, _answer(spec, row, where))
    choices = labels or _choices(spec, row, where)
    given = row.get(spec.answer)
    if isinstance(given, int) and not isinstance(given, bool) and str(given) not in choices:
        if not 0 <= given < len(choices):
            raise UserError(
                f"{where}: the answer {given} is no place among its {len(choices)} choices, counted from 0"
            )
        return Item(prompt, choices[given], choices)
    answer = _answer(spec, row, where)
    if answer not in choices:
        raise UserError(
            f"{where}: the answer {answer[:60]!r} is none of the choices ({', '.join(choices)[:200]})"
        )
    return Item(prompt, answer, choices)


def _answer(spec: TaskSpec, row: Mapping[str, Any], where: str) -> str:
    answer = _text(row.get(spec.answer)).strip()
    if not answer:
        raise UserError(
            f"{where} has no answer ({spec.answer}): fill it in, or name the field that holds it (answer:); the item has "
            f"{_fields(row)}"
        )
    return answer


def _choices(spec: TaskSpec, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    found = row.get(spec.choices) if isinstance(spec.choices, str) else None
    choices = tuple(_text(one).strip() for one in found) if isinstance(found, list) else ()
    if len(set(choices)) < 2 or len(set(choices)) < len(choices) or not all(choices):
        raise UserError(
            f"{where} has no list of at least two different choices in {spec.choices}: write it, or take the line out"
        )
    return choices


def _labels(spec: TaskSpec, rows: Sequence[tuple[int, Mapping[str, Any]]], data: Path) -> tuple[str, ...]:
    """The choices that all items have in common, if they have."""
    if isinstance(spec.choices, str) or spec.kind not in CHOSEN:
        return ()
    labels = spec.choices or tuple(
        sorted({text for _, row in rows if (text := _text(row.get(spec.answer)).strip())})
    )
    if len(set(labels)) < 2:
        raise UserError(
            f"{data}: there are not two different answers ({spec.answer}) to choose from: name the field that holds them "
            "(answer:), or write all of them (choices:)"
        )
    return labels


def _text(value: Any) -> str:
    """A field as text; nothing for one that is missing or holds no single value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""


def _fields(row: Mapping[str, Any]) -> str:
    names = list(row)
    return ", ".join(names[:_SHOWN_FIELDS]) + (", …" if len(names) > _SHOWN_FIELDS else "") or "no fields"


@cache
def _template(text: str) -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    settings: dict[str, Any] = {"undefined": StrictUndefined, "keep_trailing_newline": True}
    return ImmutableSandboxedEnvironment(**settings).from_string(text)
