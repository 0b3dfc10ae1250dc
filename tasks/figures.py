"""Figures of a stage in a sentence."""

from collections.abc import Mapping
from typing import Any


def headline(summary: Mapping[str, Any], most: int = 4) -> str:
    """The first few figures of a stage: stages put what matters first."""
    figures = [(name, value) for name, value in summary.items() if not isinstance(value, str)]
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in figures[:most])


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
