"""Faults of how a served model is set up to compute: what its config.json says otherwise than the trained one's."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leanpipe.evaluation.parity.bounds import Fault
from leanpipe.models.count import read_config

_ROPE, _NORM = ("rope", "theta", "rotary", "partial_rotary"), ("eps", "norm")
_ARITHMETIC = (
    *_ROPE,
    *_NORM,
    "act",
    "head",
    "window",
    "scal",
    "softcap",
    "multiplier",
    "hidden",
    "layer",
    "size",
    "bias",
)
"""Parts of the names of settings that decide what a model computes; whether its head is tied is read off the weights."""
_SAID_OTHERWISE = (
    "initializer",
    "chunk",
    "keys_to_ignore",
    "summary_",
    "dropout",
    "layerdrop",
    "pretraining_tp",
)


def find_config_faults(trained: Path, served: Path) -> Iterator[Fault]:
    """Yield each setting of the arithmetic that is not what it was in training."""
    was, now = _settings(trained), _settings(served)
    for name in sorted(was.keys() | now.keys()):
        if _same(was.get(name), now.get(name)):
            continue
        kind = (
            "rope_differs"
            if any(part in name for part in _ROPE)
            else "norm_differs"
            if any(part in name for part in _NORM)
            else "config_differs"
        )
        yield Fault(
            kind,
            f"{name} is {now.get(name)} in config.json, and was {was.get(name)} in training: restore config.json",
        )


def _settings(folder: Path) -> dict[str, Any]:
    flat = _flat(read_config(folder).get_text_config().to_dict())
    return {
        name: value
        for name, value in flat.items()
        if any(part in name for part in _ARITHMETIC)
        and not any(part in name for part in _SAID_OTHERWISE)
        and not name.startswith("quantization_config")
    }


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
        )
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-5)  # some formats keep float32
    return bool(one == other)
