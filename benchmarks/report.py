"""How a benchmark tells what it found: a line per claim on the screen, and `benchmarks/results/<target>.json`."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def interleaved(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each of `runs`, run in turns, so that what disturbs one disturbs all."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for taken, run in zip(seconds, runs, strict=True):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]


def claim(
    name: str, ours: float, peer: float, unit: str, goal: float, *, at_most: bool = False
) -> dict[str, Any]:
    """One row: `ours / peer` beside its goal, which it must reach, or with `at_most` must not exceed."""
    ratio = ours / peer
    met = ratio <= goal if at_most else ratio >= goal
    print(
        f"{name:<46} ours {ours:10.4g} {unit:<8} peer {peer:10.4g}   ratio {ratio:7.3g}   "
        f"goal {'≤' if at_most else '≥'} {goal:g}   {'met' if met else 'NOT MET'}",
        flush=True,
    )
    return {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "goal": goal, "met": met}


def write(target: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write `benchmarks/results/<target>.json`."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{target}.json").write_text(json.dumps(list(rows), indent=1))
