"""The choice of a type for each part of a model, as an integer programme: the least loss, or the least size, within bounds.

What each part takes adds up: bytes exactly, seconds a token and loss nearly. scipy's HiGHS finds the best choice for certain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leanpipe.core.errors import UserError

MEGABYTE = 1e6


@dataclass(frozen=True)
class Choice:
    """One part of a model in one type, and what it takes there."""

    part: str
    kind: str
    bytes: int
    loss: float
    """Nats per token."""
    seconds: float
    """Of a token that is written."""


@dataclass(frozen=True)
class Bounds:
    """What a file may take; None where there is no bound."""

    bytes: float | None = None
    """Of all parts together."""
    loss: float | None = None
    seconds: float | None = None


Totals = tuple[float, float, float]
"""Bytes, loss and seconds."""


def best_choice(choices: Sequence[Choice], bounds: Bounds) -> list[Choice] | None:
    """Return a choice for each part within the bounds; None if there is none.

    The one with the least loss, or, if only loss and speed are bounded, the smallest.
    """
    smallest = bounds.loss is not None and bounds.bytes is None
    return least(choices, "bytes" if smallest else "loss", bounds)


def least(choices: Sequence[Choice], what: str, bounds: Bounds) -> list[Choice] | None:
    """Return the choice within the bounds that has the least of `what`: bytes, loss or seconds; None if there is none."""
    import numpy as np
    from scipy.optimize import Bounds as Between
    from scipy.optimize import LinearConstraint, milp
    from scipy.sparse import csr_array

    parts = {part: row for row, part in enumerate(dict.fromkeys(one.part for one in choices))}
    rows = np.array([parts[one.part] for one in choices])
    columns = np.arange(len(choices))
    one_each = csr_array((np.ones(len(choices)), (rows, columns)))
    limits = [LinearConstraint(one_each, 1, 1)]
    for name in ("bytes", "loss", "seconds"):
        bound = getattr(bounds, name)
        if bound is not None:
            values = np.array([getattr(one, name) for one in choices])
            # Scaled by the bound, for the solver's tolerances are meant for numbers about one.
            limits.append(LinearConstraint(values[None] / max(bound, 1e-30), -np.inf, 1))
    aim = np.array([getattr(one, what) for one in choices])
    # Of choices that are the same in that, the smaller and faster.
    aim = aim / max(aim.max(), 1e-30) + 1e-9 * np.array([one.bytes for one in choices]) / MEGABYTE
    found = milp(
        aim,
        constraints=limits,
        integrality=np.ones(len(choices)),
        bounds=Between(0, 1),
        options={"mip_rel_gap": 1e-6},
    )
    return (
        [one for one, taken in zip(choices, found.x, strict=True) if taken > 0.5]
        if found.x is not None
        else None
    )


def totals(chosen: Sequence[Choice]) -> Totals:
    """Return bytes, loss and seconds of a choice for each part."""
    return (
        sum(one.bytes for one in chosen),
        sum(one.loss for one in chosen),
        sum(one.seconds for one in chosen),
    )


def refusal(choices: Sequence[Choice], bounds: Bounds, beside: float, of_sum: "LossOfSum") -> UserError:
    """Say in one sentence that nothing keeps within the bounds, which of them is in the way, and what could be reached.

    `beside` are the bytes of the file that no choice changes, `of_sum` what the model loses if its parts lose so much in sum.
    """
    said = {
        "bytes": lambda value: f"quantize.max_mb={(value + beside) / MEGABYTE:.4g}",
        "loss": lambda value: f"quantize.max_loss={of_sum(value):.4g}",
        "seconds": lambda value: f"quantize.min_tokens_per_second={1 / value:.4g}",
    }
    asked = {name: getattr(bounds, name) for name in said if getattr(bounds, name) is not None}
    alone = [name for name in asked if not least(choices, name, Bounds(**{name: asked[name]}))]
    reached = []
    for name in alone or asked:
        others = {} if alone else {other: value for other, value in asked.items() if other != name}
        found = least(choices, name, Bounds(**others))
        if found:
            value = totals(found)[("bytes", "loss", "seconds").index(name)]
            reached.append(said[name](value * (1 - 1e-9 if name == "seconds" else 1 + 1e-9)))
    bounds_said = " and ".join(said[name](asked[name]) for name in (alone or asked))
    rest = "" if alone or len(asked) < 2 else ", with the other bounds as they are"
    return UserError(
        f"no choice of types keeps within {bounds_said}: the nearest that can be reached is {' or '.join(reached)}{rest}"
    )


class LossOfSum:
    """What a model loses whose parts lose so much in sum, as it was measured on some choices of types."""

    def __init__(self, whole: Mapping[str, tuple[float, float]], engine: float = 0.0):
        """Remember (sum of the parts' losses, loss of the whole) of some choices, and what the engine adds to any."""
        self._engine = engine
        self._points = sorted((sum_, loss) for sum_, loss in whole.values() if sum_ > 0 and loss > 0)

    def __call__(self, sum_: float) -> float:
        """Return the loss of the whole."""
        return sum_ * self._factor([point[0] for point in self._points], sum_) + self._engine

    def inverse(self, loss: float) -> float:
        """Return the sum of the parts' losses for which the whole loses so much."""
        left = loss - self._engine  # negative, which nothing reaches, if the engine alone adds more
        return left / self._factor([point[1] for point in self._points], left)

    def _factor(self, places: list[float], place: float) -> float:
        """The whole's loss by the sum, between the places where it was measured."""
        import numpy as np

        if not places or place <= 0:
            return 1.0
        factors = [loss / sum_ for sum_, loss in self._points]
        return float(np.exp(np.interp(np.log(place), np.log(places), np.log(factors))))
