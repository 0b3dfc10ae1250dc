"""How tests/flows/alternatives.py says which other values a setting has."""

import dataclasses
from typing import Any

Overrides = dict[str, Any]
"""Settings of one section by their paths in it, such as `quality.min_words`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Other values of one setting."""

    values: tuple[Any, ...]
    base: Overrides
    """What else must be set for it to matter."""
    refused: dict[Any, str]
    """What of the values is refused, and a pattern that the refusal must match."""
    elsewhere: str = ""
    """The test that shows it, where it cannot be seen in what a stage does: `file::function`."""


def to(*values: Any, refused: dict[Any, str] | None = None, **base: Any) -> Row:
    return Row(values, base, refused or {})


def shown_by(test: str, *values: Any) -> Row:
    return Row(values, {}, {}, test)
