"""Settings by their paths, such as `distill.temperature=3`, laid over others, with one sentence for each mistake."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from leanpipe.core.errors import UserError
from leanpipe.settings.yaml_text import read_yaml, write_yaml

Settings = TypeVar("Settings", bound=BaseModel)


def parse_override(text: str) -> tuple[str, Any]:
    """Read `distill.temperature=3` as ("distill.temperature", 3); the value is YAML. Raises UserError."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UserError(f"--set {text}: write it as distill.temperature=3")
    try:
        return path.strip(), read_yaml(value)
    except UserError as error:
        raise UserError(f"--set {text}: {value!r} {error}") from error


def write_override(path: str, value: Any) -> str:
    """Write a setting so that `parse_override` reads it back."""
    return f"{path}={write_value(value)}"


def write_value(value: Any) -> str:
    """Write a value as YAML in one line."""
    return write_yaml(value)


def nested(path: str, value: Any) -> dict[str, Any]:
    """Put a value under its path: `{"distill": {"temperature": 3}}`."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def leaves(path: str, value: Any) -> dict[str, Any]:
    """List the single settings of what stands at a path, which may be a whole section."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {
        inner: leaf for name, one in value.items() for inner, leaf in leaves(f"{path}.{name}", one).items()
    }


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` upon `base`, section by section."""
    found = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(name), Mapping)
        found[name] = merged(base[name], value) if both else value
    return found


def validated(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Make `kind` of these values. Raises UserError that names each wrong setting and says what is right."""
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
        section = f"{path}." if path else ""
        old, new = section + error["ctx"]["old"], error["ctx"]["new"]
        new = new if "." in new else section + new  # that of another section is named whole
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
