"""Measure training steps: means of losses, speed, and how much of the device's arithmetic was used."""

import time
from typing import Any

import torch

from leanpipe.core import device


class SpeedMeter:
    """Gathers figures from one report to the next, and time over the whole training.

    Its state is saved with each checkpoint, so that a report after a resume covers the same steps as without it.
    """

    def __init__(self, tokens_per_step: int, flops_per_token: float, peak_flops: float):
        self._tokens_per_step, self._flops, self._peak = tokens_per_step, flops_per_token, peak_flops
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0
        self._seconds = 0.0
        self._all_steps, self._all_seconds, self._started = 0, 0.0, 0.0

    def start(self) -> None:
        """Start the time of a step, of which neither validation nor checkpoints nor loading are part."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """End the time of a step."""
        seconds = time.perf_counter() - self._started
        self._seconds, self._all_seconds = self._seconds + seconds, self._all_seconds + seconds
        self._steps, self._all_steps = self._steps + 1, self._all_steps + 1

    def add(self, means: dict[str, torch.Tensor]) -> None:
        """Add the losses of one step, each a mean over its scored tokens."""
        for name, value in means.items():
            self._sums[name] = self._sums.get(name, 0) + value

    def report(self) -> dict[str, float]:
        """Return means since the last report, and begin anew."""
        steps = max(self._steps, 1)
        figures = {name: float(value) / steps for name, value in self._sums.items()}
        speed = self._steps * self._tokens_per_step / self._seconds if self._seconds else 0.0
        figures |= {"tokens_per_second": speed, "peak_memory_bytes": float(device.peak_memory())}
        if self._peak:
            figures["mfu"] = speed * self._flops / self._peak
        self._sums, self._steps, self._seconds = {}, 0, 0.0
        return figures

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second over the whole training."""
        return self._all_steps * self._tokens_per_step / self._all_seconds if self._all_seconds else 0.0

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation over the whole training; 0 where the device's peak is not known."""
        return self.tokens_per_second * self._flops / self._peak if self._peak else 0.0

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on as if nothing had been between."""
        sums = {name: float(value) for name, value in self._sums.items()}
        times = [self._steps, self._seconds, self._all_steps, self._all_seconds]
        return {"sums": sums, "times": times}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        # float32 → JSON → float32 loses nothing.
        self._sums = {
            name: torch.tensor(value, device=device.name()) for name, value in state["sums"].items()
        }
        self._steps, self._seconds, self._all_steps, self._all_seconds = state["times"]
