"""YAML as its version 1.2 says it, for what a person types: in 1.1 `no` is false, `010` eight and `1:30` ninety."""

from io import StringIO
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.representer import SafeRepresenter

from leanpipe.core.errors import UserError


class _Constructor(SafeConstructor):
    """Leaves dates as they were written: no setting is one, and a folder may be named after one."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def read_yaml(text: str) -> Any:
    """Read one document. Raises UserError, which says where reading ended and why, to be put after what was read."""
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        return reader.load(text)
    except RecursionError as error:
        raise UserError("could not be read as YAML: it is nested too deeply") from error
    except (YAMLError, ValueError) as error:
        raise UserError(f"could not be read as YAML: {_problem(error)}") from error


class _Representer(SafeRepresenter):
    """Quotes what readers of YAML 1.1 would not take for the text that it is, such as `no` or a question in a list."""

    def represent_str(self, data: str) -> Any:
        style = None if _reads_as_itself(data) else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


def _reads_as_itself(text: str) -> bool:
    try:
        return yaml.safe_load(f"[{text}]") == [text]
    except (yaml.YAMLError, ValueError):
        return False


def write_yaml(value: Any) -> str:
    """Write a value in one line, so that `read_yaml` reads it back, and every other reader of YAML does."""
    writer, written = YAML(typ="safe", pure=True), StringIO()
    writer.Representer = _Representer
    writer.default_flow_style, writer.width = True, 10**6
    writer.dump(value, written)
    return written.getvalue().strip().removesuffix("\n...")


def _problem(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())
