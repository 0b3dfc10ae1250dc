"""The settings of the short form as options of a command: names, types and help are those of their declaration."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.models import ArgumentInfo

from flows.cli.completion import COMPLETIONS
from leanpipe.core.config import StageConfig
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.overrides import write_override
from leanpipe.settings.quick import PATHS, QuickSettings

_NAMES = {"other_settings": "--set"}


def takes_quick_settings(
    kind: type[StageConfig] = PipelineConfig,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that ends in `**chosen` an option for every field of QuickSettings that settings `kind` have."""

    def add_options(command: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in inspect.signature(command).parameters.values() if one.kind != one.VAR_KEYWORD]
        arguments = [one for one in own if _is_argument(one)]
        options = [one for one in own if not _is_argument(one)]
        fields = {
            name: field
            for name, field in QuickSettings.model_fields.items()
            if name not in PATHS or PATHS[name].partition(".")[0] in kind.model_fields
        }
        parameters = [*arguments, *(_option(name, field) for name, field in fields.items()), *options]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return add_options


def as_overrides(chosen: Mapping[str, Any]) -> list[str]:
    """Write the options that were given as settings of a flow, in the form of --set; those of --set itself count last."""
    given = {
        PATHS[name]: value for name, value in chosen.items() if name in PATHS and value not in (None, [])
    }
    return [write_override(path, value) for path, value in given.items()] + list(
        chosen["other_settings"] or ()
    )


def _is_argument(parameter: inspect.Parameter) -> bool:
    return any(isinstance(one, ArgumentInfo) for one in getattr(parameter.annotation, "__metadata__", ()))


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    kind, default = _type_and_default(name, field)
    again = " May be given again." if get_origin(field.annotation) is tuple else ""
    option = typer.Option(
        _NAMES.get(name, f"--{name.replace('_', '-')}"),
        help=" ".join((field.description or "").split()) + again,
        autocompletion=COMPLETIONS.get(name),
    )
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, option]
    )


def _type_and_default(name: str, field: FieldInfo) -> tuple[Any, Any]:
    """Bounds and choices are left to the settings, which refuse what is wrong in one sentence."""
    if name == "preset":
        return str, str(field.default)
    if get_origin(field.annotation) is tuple:
        return list[str] | None, None
    (kind,) = (one for one in get_args(field.annotation) if one is not type(None))
    return kind | None, None
