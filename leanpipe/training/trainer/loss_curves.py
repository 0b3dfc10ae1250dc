"""Draw a training's losses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_losses(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training and validation loss over steps to `path`; `history` is that of transformers' Trainer."""
    from matplotlib.figure import Figure  # not pyplot, whose figures and backend are global

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, style in (("loss", "-"), ("kl", ":"), ("cross_entropy", "--"), ("validation_loss", "o-")):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=name.replace("_", " "))
    axes.set(xlabel="step", ylabel="nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
