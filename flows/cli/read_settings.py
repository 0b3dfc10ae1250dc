"""From a preset, a YAML file and `--set` to a flow's settings, with one sentence for each mistake."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from leanpipe.core.errors import UserError
from leanpipe.settings.presets import PRESETS, changes

Settings = TypeVar("Settings", bound=BaseModel)


def settings(kind: type[Settings], preset: str, file: Path | None, overrides: Sequence[str]) -> Settings:
    """The settings of class `kind`: the preset's, then the file's, then those of `overrides` (`distill.size=0.5`)."""
    if preset not in PRESETS:
        raise UserError(f"there is no preset {preset}: choose one of {', '.join(PRESETS)}")
    chosen = {name: value for name, value in changes(preset).items() if name in kind.model_fields}
    values = _merged(kind().model_dump(mode="json"), chosen)
    if file:
        values = _merged(values, _read(file))
    for override in overrides:
        values = _merged(values, _parse(override))
    return validated(kind, values)


def validated(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """`kind` with these values. Raises UserError that names each wrong field and says what is right."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_sentence(kind, one) for one in error.errors())) from error


def _sentence(kind: type[BaseModel], error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        names = list(_model_at(kind, error["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), names, n=1)
        return f"{path}: there is no such setting; " + (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        )
    if error["type"] == "renamed":
        old, new = (".".join(filter(None, (path, error["ctx"][name]))) for name in ("old", "new"))
        return f"{old}: this setting is called {new} now"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{path}: {message} (you gave {error['input']!r})"


def _model_at(kind: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    for part in path:
        annotation = kind.model_fields[str(part)].annotation
        kind = next(one for one in (annotation, *get_args(annotation)) if isinstance(one, type))
    return kind


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"--config: {file} could not be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"--config: {file} must hold settings by name, such as `distill: {{temperature: 3}}`")
    return content


def _parse(override: str) -> dict[str, Any]:
    """`distill.temperature=3` as `{"distill": {"temperature": 3}}`; the value is read as YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override}: write it as distill.temperature=3")
    value = yaml.safe_load(text)
    for name in reversed(path.strip().split(".")):
        value = {name: value}
    return value


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(name), Mapping)
        merged[name] = _merged(base[name], value) if both else value
    return merged
