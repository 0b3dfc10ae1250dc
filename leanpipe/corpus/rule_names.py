"""What a rule's name says: the setting whose bound a document broke, as `quality.min_words`."""

from collections.abc import Mapping
from typing import Any

_THRESHOLDS = {
    "duplicates.near": "duplicates.threshold"
}  # the setting named for the rule only switches it on


def rule_bound(config: Mapping[str, Any], rule: str) -> Any:
    """Find the bound that `rule` holds documents to, in the settings `config` of `clean` (nested); None if it has none."""
    value: Any = config
    for name in _THRESHOLDS.get(rule, rule).split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return None if isinstance(value, bool | Mapping) else value


def format_value(value: Any) -> str:
    """Write a bound or a measured value for people."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int | float):
        return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"
    return "" if value is None else str(value)


def format_rounded(value: float) -> str:
    """Write a figure that is right to half a percent, in no more digits than that."""
    return f"{round(value):,}" if value >= 10 else f"{value:.2g}"


def is_numeric_rule(rule: str) -> bool:
    """Whether what `rule` measures is a figure that says more than that the rule applied."""
    return rule.rpartition(".")[2].startswith(("min_", "max_")) or rule in _THRESHOLDS
