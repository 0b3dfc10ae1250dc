"""Energy that a piece of work takes, where the machine counts it; nothing is estimated.

A GPU is asked through NVIDIA's library, if the package nvidia-ml-py is installed (GPUs since Volta count). A processor's
packages count by Intel's RAPL, which Linux shows under /sys/class/powercap, often to root alone. What is counted is all that
the device takes meanwhile, also for other processes.
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from leanpipe.core import device

POWERCAP = Path("/sys/class/powercap")


class Count(NamedTuple):
    """What a counter shows, in millionths of a joule."""

    value: int
    most: int
    """It begins again at 0 after this; 0 if it never does."""


Counters = Mapping[str, Count]
"""The counters of a device, by their names; empty where nobody counts, or nobody may read them."""


def read_counters(on_gpu: bool = False, powercap: Path = POWERCAP) -> Counters:
    """Read what the GPU, or else the processor, has taken up to now."""
    return _read_gpu() if on_gpu else _read_packages(powercap)


def joules_between(before: Counters, after: Counters) -> float | None:
    """Return the joules that were taken from one reading to the next; None where nobody counted them."""
    if not before or before.keys() != after.keys():
        return None
    return sum(_more(before[name], after[name]) for name in before) / 1e6


def _more(before: Count, after: Count) -> int:
    more = after.value - before.value
    return more if more >= 0 else more + after.most


# https://docs.kernel.org/power/powercap/powercap.html: a package is intel-rapl:0, its parts are intel-rapl:0:0 and so on.
def _read_packages(powercap: Path) -> Counters:
    """The counters of the processor's packages; none if one of them may not be read."""
    found = {}
    try:
        for zone in sorted(powercap.glob("intel-rapl:*")):
            if zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package"):
                value, most = (
                    int((zone / f"{name}_uj").read_text()) for name in ("energy", "max_energy_range")
                )
                found[zone.name] = Count(value, most)
    except (OSError, ValueError):
        return {}
    return found


def _read_gpu() -> Counters:
    """The counter of the GPU that models run on."""
    if device.name() != "cuda" or importlib.util.find_spec("pynvml") is None:
        return {}
    import torch

    library: Any = importlib.import_module("pynvml")
    torch.cuda.synchronize()
    with contextlib.suppress(library.NVMLError):
        library.nvmlInit()
        name = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
        millijoules = library.nvmlDeviceGetTotalEnergyConsumption(library.nvmlDeviceGetHandleByUUID(name))
        return {name: Count(1_000 * millijoules, 0)}
    return {}
