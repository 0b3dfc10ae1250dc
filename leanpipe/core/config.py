"""The base of every config class: frozen, strict, and its own help page.

A parameter is declared once. Its default, bounds and docstring become the field of the Prefect form, the check of the
API, the check of the command line and the parameter in MLflow.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


def _keep_declared_order(schema: dict[str, Any]) -> None:
    """Prefect's form sorts the fields of a nested model by name unless each carries a position."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class StageConfig(BaseModel):
    """The settings of one stage. A misspelt or out-of-range setting is refused by name."""

    renamed: ClassVar[dict[str, str]] = {}
    """Names that fields had once, and what they are called now: an old one is refused with the new one in the sentence.
    The new name of a field that moved begins with the section where it is now, as `shrink.size`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        json_schema_extra=_keep_declared_order,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, values: Any) -> Any:
        for old, new in cls.renamed.items():
            if isinstance(values, dict) and old in values:
                raise PydanticCustomError(
                    "renamed", "{old} is called {new} now: write {new}", {"old": old, "new": new}
                )
        return values


def flatten(config: BaseModel) -> dict[str, Any]:
    """`{"distill.temperature": 2.0, …}`: one entry per leaf, named by its path. Lists stay whole."""
    return dict(_leaves(config.model_dump(mode="json"), ""))


def _leaves(value: Any, path: str):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value
