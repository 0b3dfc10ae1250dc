"""Tasks that a person wrote as lm-eval's own YAML files are written, on files of this machine."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanpipe.core.errors import UserError

_READERS = ("json", "csv", "parquet", "text")


@dataclass(frozen=True)
class LmEvalTask:
    """What lm-eval makes a task of."""

    name: str
    config: Mapping[str, Any]
    file: Path


def is_lm_eval_task(content: Mapping[str, Any]) -> bool:
    """Whether a YAML file is one of lm-eval's, rather than one of ours."""
    return any(name in content for name in ("dataset_path", "doc_to_text", "include", "group"))


def lm_eval_data(content: Mapping[str, Any], file: Path) -> list[str]:
    """Return the files of a task's items. Raises UserError if they are not named, or lie elsewhere than on this machine."""
    given = content.get("dataset_kwargs")
    files = list(_texts(given.get("data_files"))) if isinstance(given, dict) else []
    if content.get("dataset_path") not in _READERS or not files or "include" in content:
        raise UserError(
            f"the task {file} is written as lm-eval's, and does not name its files: write dataset_path: json and dataset_kwargs: "
            "{data_files: {test: …}}, all in this one file; tasks that lm-eval has itself are named in score_tasks.names"
        )
    return files


def read_lm_eval_task(content: Mapping[str, Any], file: Path, name: str) -> LmEvalTask:
    """Read a task whose relative files lie beside its own."""
    given = dict(content["dataset_kwargs"])
    given["data_files"] = _beside(given["data_files"], file.parent.resolve())
    called = content.get("task") or name
    if not isinstance(called, str):
        raise UserError(f"the task {file}: task: {called} is no name: write one, or leave it out")
    return LmEvalTask(called, {**content, "task": called, "dataset_kwargs": given}, file)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _beside(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return str(folder / Path(value).expanduser())
    if isinstance(value, dict):
        return {name: _beside(inner, folder) for name, inner in value.items()}
    return [_beside(inner, folder) for inner in value]
