"""Stage `pace`: how long a little of the work takes that a run will do over and over, so that a first plan need not assume it.

All that a plan wants timed is timed in one process, which imports what it needs once. What was timed before is in the
store, whichever plan wanted it.
"""

import gc
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.estimate import Repeated
from leanpipe.core.report import Report
from leanpipe.core.stage import Runner, Summary, stage
from leanpipe.core.store import MANIFEST, Store, digest_json
from leanpipe.planning.timed_steps import WorkConfig, step_of

log = logging.getLogger(__name__)

TIMED_STEPS = 2
"""So many steps count at the most, after one that does not: the first asks for memory."""
_ENOUGH_SECONDS = 0.25
"""One step counts alone if it is as long as that."""
_MOST_SECONDS = 2.0
"""For which steps of one kind are repeated, at most."""
_TOKENS_OF_A_CORE = 128
_MOST_TOKENS = {"cpu": 1_024, "cuda": 2**15}
"""Of one step: larger ones are no faster per token. Nor are they on few cores with more than 128 for each: blocks of 256 on two
cores read 929 tokens a second one by one, and 889 by fours (26 November 2026)."""
_NOT_OF_THE_SHAPE = ("uncut_parameters", "_name_or_path", "architectures", "dtype")
"""Of a model's config: what is as fast with another value."""
_QUIET_SHARE = 0.75
"""Of a step's time its main thread computes at least so much where nobody else wants the cores."""
_DISTURBED_COUNTS = 600.0
"""Seconds for which a disturbed figure is good enough: so long the machine is likely to be as busy as it was."""
_MOST_TIMES = 3
"""So often is the same work timed: where every time is disturbed, the machine is like that."""


class PaceConfig(StageConfig):
    """What is timed, and on what: the times of another device say nothing."""

    device: str = Field(max_length=1_000)
    """What the maker calls the device."""
    cores: int = Field(ge=1, le=100_000)
    """How many cores work at it."""
    works: tuple[WorkConfig, ...]
    """Each kind of work."""
    before: int = Field(default=0, ge=0, le=1_000)
    """How often some of it was timed before, and disturbed by other processes."""


@dataclass(frozen=True)
class PaceInputs:
    """Nothing: shapes are enough."""


class Pace(NamedTuple):
    """How long one kind of work takes."""

    seconds_per_token: float
    """0 where it could not be timed."""
    steps: int
    disturbed: bool
    """Whether other processes had the cores meanwhile: then it is less work than that."""


def measure(works: Iterable[Repeated], store: Store, run: Runner) -> dict[Repeated, Pace]:
    """Return the pace of each of the `works`, as the stage `pace` times them, or has timed them here before.

    What cannot be timed is left out: a plan that knows less stops no run. What was timed while others had the cores is
    timed again, some time later.
    """
    asked = {work: _config(work) for work in works}
    distinct = {_name(config): config for config in asked.values()}
    known = _known(store)
    if wanted := [name for name in distinct if not _is_settled(known.get(name, []))]:
        before = max(len(known.get(name, [])) for name in wanted)
        _time_all([distinct[name] for name in wanted], before, run)
        known = _known(store)
    best = {name: _best([pace for _, pace in known.get(name, [])]) for name in distinct}
    return {work: found for work, config in asked.items() if (found := best[_name(config)])}


def is_disturbed(seconds: float, computed: float) -> bool:
    """Whether others had the cores: the thread that leads the work `computed` for too little of its `seconds`."""
    return computed < _QUIET_SHARE * seconds


def _config(work: Repeated) -> WorkConfig:
    most = _MOST_TOKENS[device.name()]
    if device.name() == "cpu" and work.what != "write":
        most = min(most, _TOKENS_OF_A_CORE * device.cores())
    shape = json.loads(work.model.to_json_string(use_diff=False))
    return WorkConfig(
        what=work.what,
        model={name: value for name, value in shape.items() if name not in _NOT_OF_THE_SHAPE},
        length=work.length,
        rows=max(1, min(work.rows, most // work.length)),
        arithmetic=work.arithmetic,
    )


def _name(work: WorkConfig) -> str:
    return digest_json(work.model_dump(mode="json"))[:16]


def _time_all(works: Sequence[WorkConfig], before: int, run: Runner) -> None:
    """Have the stage time them: all at once or, if that fails, each by itself, so that one costs no other its figure."""
    config = PaceConfig(device=device.model(), cores=device.cores(), works=tuple(works), before=before)
    try:
        run(pace, config, {})
    except Exception as error:  # noqa: BLE001 - whatever it was, the stage itself will say it better
        if len(works) == 1:
            log.info("%s was not timed for the plan: %s", works[0].what, error)
            return
        for work in works:
            _time_all([work], before, run)


def _known(store: Store) -> dict[str, list[tuple[float, Pace]]]:
    """All that was timed on this device and as many cores, each by the name of its work, with when that was."""
    found: dict[str, list[tuple[float, Pace]]] = {}
    for path, manifest in store.manifests(pace.name):
        config = pace.made(manifest)
        if isinstance(config, PaceConfig) and (config.device, config.cores) == (
            device.model(),
            device.cores(),
        ):
            when = (path / MANIFEST).stat().st_mtime
            for name, figures in manifest.summary.items():
                found.setdefault(name, []).append((when, Pace(*figures)))
    return found


def _is_settled(known: Sequence[tuple[float, Pace]]) -> bool:
    """Whether the work need not be timed now."""
    if not known:
        return False
    newest = max(when for when, _ in known)
    quiet = any(not pace.disturbed for _, pace in known)
    return quiet or len(known) >= _MOST_TIMES or time.time() - newest < _DISTURBED_COUNTS


def _best(paces: Sequence[Pace]) -> Pace | None:
    """The shortest, for other work on the machine only ever adds to it; None where it could not be timed."""
    return min((one for one in paces if one.seconds_per_token), default=None)


@stage(version=2, uses_device=True)
def pace(config: PaceConfig, inputs: PaceInputs, out: Path, report: Report) -> Summary:
    """Time some steps of each kind of work; nothing is said of one for which there is no memory."""
    return {_name(work): list(_paced(work)) for work in config.works}


def _paced(work: WorkConfig) -> Pace:
    try:
        return _timed(step_of(work), work.tokens)
    except (RuntimeError, MemoryError):
        return Pace(0.0, 0, False)
    finally:
        gc.collect()  # the next model gets the memory of this one


def _timed(step: Callable[[], object], tokens: int) -> Pace:
    """Repeat the step until one was not disturbed, if that is soon."""
    taken = [_seconds(step)]
    while len(taken) <= TIMED_STEPS and sum(seconds for seconds, _ in taken) < _MOST_SECONDS:
        taken.append(_seconds(step))
        if taken[-1][0] >= _ENOUGH_SECONDS and not is_disturbed(*taken[-1]):
            break
    seconds, computed = min(taken[1:] or taken)
    return Pace(seconds / tokens, len(taken), is_disturbed(seconds, computed))


def _seconds(step: Callable[[], object]) -> tuple[float, float]:
    """How long a step takes, and for how much of it the thread computes that leads the work: with a GPU there are two in turn."""
    computed = time.process_time if device.name() == "cuda" else time.thread_time
    started, before = time.perf_counter(), computed()
    step()
    if device.name() == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter() - started, computed() - before
