"""Tell from its losses when a training goes wrong."""

import math
import statistics
from collections import deque
from typing import Any

_HISTORY = 128
"""Losses that a new one is compared with, as OLMo-core's SkipStepOptimizer does."""
_ENOUGH = 32
"""How many of them it takes to know what is usual."""
_IN_A_ROW = 3
"""Spikes in a row that are a divergence: a single one is often a single odd batch."""


class Diverged(Exception):
    """The training went wrong in the steps `first` to `last`, counted from 1."""

    def __init__(self, first: int, last: int, what: str):
        super().__init__(what)
        self.first, self.last, self.what = first, last, what


class DivergenceGuard:
    """Watches the losses of the steps in their order.

    A loss that is not finite is a divergence at once; so is one above the mean of the last 128 steps by more than `spike`
    standard deviations, if that holds for three steps in a row.
    """

    def __init__(self, spike: float):
        self._spike = spike
        self._usual: deque[float] = deque(maxlen=_HISTORY)
        self._high = 0

    def check_finite(self, step: int, value: float, what: str) -> None:
        """Raise Diverged if `value` is not finite."""
        if not math.isfinite(value):
            raise Diverged(step, step, f"the {what} is {value} at step {step}")

    def check(self, step: int, loss: float) -> None:
        """Raise Diverged if the `loss` of this step, or the last few, are no longer a training's."""
        self.check_finite(step, loss, "loss")
        if not self._is_spike(loss):
            self._usual.append(loss)
            self._high = 0
            return
        self._high += 1
        if self._high == _IN_A_ROW:
            usual = statistics.fmean(self._usual)
            first = step - _IN_A_ROW + 1
            raise Diverged(
                first,
                step,
                f"the loss exploded at step {first}: it is {loss:.3g} at step {step}, and was {usual:.3g}",
            )

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on as if nothing had been between."""
        return {"usual": list(self._usual), "high": self._high}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._usual.extend(state["usual"])
        self._high = state["high"]

    def _is_spike(self, loss: float) -> bool:
        if not self._spike or len(self._usual) < _ENOUGH:
            return False
        mean, deviation = statistics.fmean(self._usual), statistics.pstdev(self._usual)
        return loss > mean + self._spike * deviation
