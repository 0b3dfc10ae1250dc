"""What `leanpipe config` prints: every setting with its help, as a file that --config reads, or what a file changes."""

import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.syntax import Syntax
from rich.table import Table

from flows.cli.console import console
from leanpipe.core.config import StageConfig, flatten
from leanpipe.settings.overrides import write_value
from leanpipe.settings.quick import differences

_WIDTH = 100


def print_settings(flow: str, preset: str, settings: StageConfig) -> None:
    """Print the settings of a flow as YAML; in colours, if a terminal shows them."""
    text = f"# leanpipe run {flow} --preset {preset} --config THIS_FILE\n{settings_yaml(settings)}"
    if sys.stdout.isatty():
        console().print(Syntax(text, "yaml", theme="ansi_dark", background_color="default", word_wrap=True))
    else:
        print(text, end="")


def settings_yaml(settings: BaseModel) -> str:
    """Write every setting under its help, which says what it is, what it may be and what it does."""
    return "\n".join(_lines(settings, "")) + "\n"


def print_differences(name: str, settings: StageConfig, preset: str, base: StageConfig) -> None:
    """Print a table of the settings in which the file called `name` differs from the preset."""
    found = differences(settings, base)
    if not found:
        console().print(f"{name} changes nothing of preset {preset}.")
        return
    table = Table("setting", name, f"preset {preset}")
    before = flatten(base)
    for path, value in found.items():
        table.add_row(path, write_value(value), write_value(before[path]))
    console().print(table)


def _lines(settings: BaseModel, indent: str) -> Iterator[str]:
    """Write sections with an empty line around each."""
    values = settings.model_dump(mode="json")
    after_a_section = False
    for name, field in type(settings).model_fields.items():
        inner = getattr(settings, name)
        is_section = isinstance(inner, BaseModel)
        if is_section or after_a_section:
            yield ""
        yield from _comment(f"{field.description or ''} {_range(field)}", f"{indent}# ")
        if is_section:
            yield f"{indent}{name}:"
            yield from _lines(inner, f"{indent}  ")
        else:
            yield f"{indent}{name}: {write_value(values[name])}"
        after_a_section = is_section


def _comment(text: str, start: str) -> list[str]:
    words = " ".join(text.split())
    return textwrap.wrap(
        words,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _range(field: FieldInfo) -> str:
    """Say in brackets what the value may be."""
    if choices := _choices(field.annotation):
        return f"[{', '.join(map(str, choices))}]"
    bounds = [
        f"{word} {getattr(one, name):,}"
        for one in field.metadata
        for name, word in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
        if hasattr(one, name)
    ]
    return f"[{', '.join(bounds)}]" if bounds else ""


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for one in get_args(annotation) if (found := _choices(one))), ())
