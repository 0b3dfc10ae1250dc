"""What a stage may use: this machine, or one that is named by its card."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from leanpipe.core import device
from leanpipe.core.errors import UserError

GIGABYTE = 10**9
_CONTEXT = 700_000_000
"""What CUDA, its libraries and the screen take of a card."""


@dataclass(frozen=True)
class Machine:
    """Memory and disk in bytes, speed in floating-point operations per second."""

    name: str
    kind: device.Kind
    device_memory: int
    """For `cpu`, that of the machine."""
    host_memory: int
    disk: int
    speed: float
    """What training sustains: on a card 35% of the peak in bfloat16, on a processor 60% of a product of matrices that was
    measured here."""


_CARDS = {"8": 60e12, "24": 165e12, "80": 990e12}
"""Dense bfloat16 peaks of an RTX 4060, an RTX 4090 and an H100, from their data sheets, by gigabytes of memory."""


def machine(name: str, place: Path) -> Machine:
    """`this`, or the gigabytes of a card (8, 24 or 80); disk is that on which `place` lies. Raises UserError."""
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    disk = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
    if name == "this":
        return _this(host, disk)
    if name not in _CARDS:
        raise UserError(f"--device {name}: choose this, or a card by its gigabytes: {', '.join(_CARDS)}")
    memory = int(name) * 2**30 - _CONTEXT
    return Machine(f"a card of {name} GB", "cuda", memory, host, disk, 0.35 * _CARDS[name])


def _this(host: int, disk: int) -> Machine:
    if device.name() == "cpu":
        return Machine(
            "this machine, no GPU", "cpu", host, host, disk, 0.6 * device.peak_flops(device.compute_dtype())
        )
    import torch

    card = torch.cuda.get_device_properties(0)
    speed = 0.35 * device.peak_flops(device.compute_dtype())
    return Machine(card.name, "cuda", card.total_memory - _CONTEXT, host, disk, speed)
