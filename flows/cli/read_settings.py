"""From a preset, a YAML file and `--set` to a flow's settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from flows.cli.options import as_overrides
from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.settings.flows import SETTINGS
from leanpipe.settings.overrides import merged, nested, parse_override, validated
from leanpipe.settings.presets import Preset, changes, find_preset
from leanpipe.settings.yaml_text import read_yaml

Settings = TypeVar("Settings", bound=BaseModel)


def read_settings(
    kind: type[Settings], preset: Preset, file: Path | None = None, overrides: Sequence[str] = ()
) -> Settings:
    """Make settings of class `kind`: the preset's, then the file's, then those of `overrides` (`shrink.size=0.5`)."""
    chosen = {name: value for name, value in changes(preset).items() if name in kind.model_fields}
    values = merged(kind().model_dump(mode="json"), chosen)
    if file:
        values = merged(values, _read(file))
    for override in overrides:
        values = merged(values, nested(*parse_override(override)))
    return validated(kind, values)


def settings_for(flow: str, file: Path | None, chosen: Mapping[str, Any]) -> StageConfig:
    """Make the settings of a flow from a file and the options of a command (see `options`), which count more."""
    if flow not in SETTINGS:
        raise UserError(f"there is no flow {flow}: choose one of {', '.join(SETTINGS)}")
    return read_settings(SETTINGS[flow], find_preset(chosen["preset"]), file, as_overrides(chosen))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_yaml(file.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {file} could not be read as YAML: {error}") from error
    except UserError as error:
        raise UserError(f"--config: {file} {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"--config: {file} must hold settings by name, such as `distill: {{temperature: 3}}`")
    return content
