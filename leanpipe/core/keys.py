"""What the key of a result holds: all that decides which result it is, and nothing that does not.

A key is a hash (`key_of`) of

1. the stage's name and its `version`, which goes up when the same input gives another result;
2. its settings, every one of them, but
   - those marked `NotInKey`, which change how a result is computed and never which: so a run that was stopped for want of
     memory goes on from its checkpoint when it is told to hold less at once. Where they change the order in which numbers
     are added up, the last digits may differ, and that is accepted;
   - those marked `ByDevice`, which count as what they are on the device: `precision=auto` counts as bf16 or fp32;
3. what the stage says that its results depend on of the device (`Stage.depends_on`). Models compute otherwise on a GPU than
   on a processor, and the fastest arithmetic is bf16 on one machine and fp32 on another, so both are in the keys of what is
   computed with models. A speed is of one model of device, so that is in the key of an evaluation;
4. the digests of the inputs' content, wherever it lies, but for inputs that only save work (`Stage.shortcuts`). Of a
   result of ours the report and the manifest are left out, for they hold timings; of a person's folder nothing is. To them
   a stage may add what it reads off its inputs (`Stage.marks`), where it treats some of them otherwise than it once did.

Not in it: where and when, by whom, and the versions of libraries. Those are in the manifest: a new release of one would
otherwise throw away every corpus and every model.

A setting without a mark is in the key. That is the safe side: the worst that comes of it is computing once too often.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.store import digest_json

Fact = Literal["kind", "model", "arithmetic"]
"""What is known of a device: cpu or cuda, its maker's name for it, and the arithmetic that is fastest on it."""

DeviceFacts = Mapping[str, str]
"""The facts of one device, by their names; empty for a stage that needs none."""

KERNELS: tuple[Fact, ...] = ("kind",)
"""For what is computed in an arithmetic that a setting names."""
ARITHMETIC: tuple[Fact, ...] = ("kind", "arithmetic")
"""For what is computed, or loaded, in the device's fastest arithmetic."""
SPEED: tuple[Fact, ...] = ("kind", "arithmetic", "model")
"""For results that hold how fast the device is."""


@dataclass(frozen=True)
class NotInKey:
    """Marks a setting that changes how a result is computed, and never which: `Annotated[int, NotInKey("…")]`."""

    why: str


@dataclass(frozen=True)
class ByDevice:
    """Marks a setting whose value `auto` is decided by a fact of the device."""

    fact: Fact


def this_device() -> DeviceFacts:
    """Return the facts of this machine's device."""
    return {
        "kind": device.name(),
        "model": device.model(),
        "arithmetic": device.arithmetic_of("auto"),
    }


def key_of(
    stage: str,
    version: int,
    config: StageConfig,
    inputs: Mapping[str, Any],
    depends_on: tuple[Fact, ...],
    on: DeviceFacts,
) -> str:
    """Return the key of what a stage makes of the digests `inputs` on the device `on`."""
    named = [stage, version, content(config, on), inputs]
    if depends_on:  # keys of stages without a device are what they always were
        named.append({fact: on[fact] for fact in depends_on})
    return digest_json(named)[:32]


def content(config: StageConfig, on: DeviceFacts) -> dict[str, Any]:
    """Return the settings that a result depends on, by name, each as what it is on the device `on`."""
    values = config.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        inner = getattr(config, name)
        if any(isinstance(mark, NotInKey) for mark in field.metadata):
            continue
        by = next((mark.fact for mark in field.metadata if isinstance(mark, ByDevice)), None)
        if by and inner == "auto":
            found[name] = on[by]
        else:
            found[name] = content(inner, on) if isinstance(inner, StageConfig) else values[name]
    return found
