"""How the engine of a model folder runs on this machine: which for GGUF, threads, how they wait, arithmetic. Measured once, kept in the home.

Which is fastest depends on the processor, the model and the libraries, and no rule holds on all machines. So a few ways are
tried on the model itself, each in a process of its own (how threads wait is fixed when a process starts). Threads that spin
while they wait are fast on a quiet machine, and slow as soon as anything else computes: of ways that are about as fast as the
fastest, the one is taken that spins least.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from leanpipe.core import device
from leanpipe.core.errors import UserError, refused_if_unreadable
from leanpipe.core.files import written_whole
from leanpipe.core.home import Home
from leanpipe.core.store import digest_json
from leanpipe.engines import openvino_genai
from leanpipe.engines.open_engine import GgufEngine, gguf_engines
from leanpipe.engines.openvino_gguf import unreadable
from leanpipe.models.load import weight_bytes
from leanpipe.models.offload import is_exported, is_gguf, is_onnx, is_quantized
from leanpipe.processes.threads import thread_environment

AUTO = "auto"
_SPINS = (0, 100, 1_000)
_ABOUT = 0.9
"""The share of the fastest way's speed at which another is about as fast."""
_LARGEST = 2_000_000_000
"""Bytes of weights up to which a few tokens are soon written."""
READ, WRITTEN = 96, 32
"""Tokens of the prompt and of the answer that each way is timed with: what is asked is mostly longer than what is said."""
_SECONDS = 60
"""After which a way counts as too slow to be measured."""
_GIVEN = re.compile(r"(threads|spins)=(\d{1,6})|(arithmetic)=(bf16|fp32)|(?P<gguf>llama\.cpp|openvino)")


class Way(NamedTuple):
    """A way to run an engine; what is None is left to the engine."""

    threads: int | None = None
    spins: int | None = None
    """How often a thread looks for work before it sleeps (GOMP_SPINCOUNT)."""
    arithmetic: str | None = None
    gguf: GgufEngine = "llama.cpp"
    """What runs a GGUF file."""

    def __str__(self) -> str:
        """The way as `--engine` reads it."""
        named = {"threads": self.threads, "spins": self.spins, "arithmetic": self.arithmetic}
        other = [] if self.gguf == "llama.cpp" else [self.gguf]
        return ",".join([*other, *(f"{name}={value}" for name, value in named.items() if value is not None)])

    def environment(self, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the variables of a process that runs so. How threads wait is as the person has set it, if at all."""
        chosen = thread_environment(environment)
        if self.spins is not None and "GOMP_SPINCOUNT" in chosen:
            chosen["GOMP_SPINCOUNT"] = str(self.spins)
        return {**chosen, **environment}


class Choice(NamedTuple):
    """The way that is taken, and how fast which ones were."""

    way: Way
    measured: Mapping[str, float] = {}

    def __str__(self) -> str:
        """Say for a person what was chosen, and why."""
        if not self.measured:
            return str(self.way) or "as it is by default"
        others = ", ".join(
            f"{way} {speed:.0f}" for way, speed in self.measured.items() if way != str(self.way)
        )
        speed = self.measured[str(self.way)]
        return f"{self.way}, {speed:.0f} tokens/s here (instead of {others}); --engine chooses another"


def choose(
    folder: Path, asked: str, home: Home, measure: Callable[[Path, Way], float] | None = None
) -> Choice:
    """Choose how to run the engine of the model in `folder`: as `asked`, or if that is `auto` as is fastest here.

    Raises UserError for what no engine understands. `measure` returns the tokens per second of a way, 0 if it does not run.
    """
    if asked != AUTO:
        return Choice(read_way(folder, asked))
    free = _free_cores(folder)
    ways = candidates(folder, free)
    if len(ways) < 2 or weight_bytes(folder) > _LARGEST:
        return Choice(ways[0])
    key, kept = _key(folder, free, ways), _kept(home)
    if key not in kept:
        speeds = {str(way): (measure or tokens_per_second)(folder, way) for way in ways}
        kept[key] = {way: speed for way, speed in speeds.items() if speed}
        if not kept[key]:
            return Choice(ways[0])
        home.engines.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(home.engines) as half:
            half.write_text(json.dumps(kept, indent=1))
    return Choice(best(ways, kept[key]), kept[key])


def read_way(folder: Path, asked: str) -> Way:
    """Read what a person wrote, such as `threads=1,spins=100`. Raises UserError if the folder's engine has no such setting."""
    known, told = _settings(folder)
    found: dict[str, int | str] = {}
    for part in asked.split(","):
        match = _GIVEN.fullmatch(part.strip())
        name, value = _read(match) if match else ("", "")
        if name not in known or (name == "threads" and not 1 <= int(value) <= device.cores()):
            raise UserError(
                f"--engine {asked}: {part.strip() or 'nothing'} is no setting of this model's engine: give {AUTO}, or "
                f"{told}, such as {candidates(folder, device.cores())[0]}"
            )
        found[name] = int(value) if value.isdigit() else value
    way = Way(**found)  # type: ignore[arg-type]
    if way.gguf == "openvino":
        openvino_genai.check_openvino()
        if why := unreadable(folder):
            raise UserError(f"--engine {asked}: {why}; take llama.cpp")
    return way


def _settings(folder: Path) -> tuple[tuple[str, ...], str]:
    """What `--engine` may say of a model folder's engine, and how a sentence names it."""
    if is_gguf(folder):
        return ("gguf", "threads", "spins"), "llama.cpp or openvino, threads and spins"
    name = "threads" if is_onnx(folder) else "arithmetic"
    return (name,), name


def _read(match: re.Match[str]) -> tuple[str, str]:
    """The name and the value of a part of what `--engine` says."""
    if match["gguf"]:
        return "gguf", match["gguf"]
    return match[1] or match[3], match[2] or match[4]


def candidates(folder: Path, free: int) -> Sequence[Way]:
    """List the ways that may be fastest with so many free cores, first the one that is taken unmeasured."""
    if is_gguf(folder):
        other = (Way(free, gguf="openvino"),) if "openvino" in gguf_engines(folder) else ()
        if free == 1:
            return (Way(1), *other)
        waits = _SPINS if "GOMP_SPINCOUNT" in thread_environment() else (None,)
        return (*(Way(free, spins) for spins in reversed(waits)), Way(1, waits[-1]), *other)
    if is_onnx(folder):
        return (Way(free), Way(1)) if free > 1 else (Way(1),)
    usual = device.arithmetic_of(AUTO)
    if device.name() != "cpu" or usual == "fp32" or is_quantized(folder):
        return (Way(arithmetic=usual),)
    return (Way(arithmetic=usual), Way(arithmetic="fp32"))


def best(ways: Sequence[Way], speeds: Mapping[str, float]) -> Way:
    """Return the fastest way, or of those that are about as fast the one with the fewest spins; the first of equals."""
    enough = _ABOUT * max(speeds.values())
    fast = [way for way in ways if speeds.get(str(way), 0.0) >= enough]
    return min(fast, key=lambda way: ((way.threads or 1) > 1 and (way.spins or 0), -speeds[str(way)]))


def tokens_per_second(folder: Path, way: Way) -> float:
    """Measure how fast the engine answers, in a process of its own; 0 if it does not within a minute."""
    command = [sys.executable, "-m", "leanpipe.serving.time_engine", str(folder), json.dumps(way)]
    try:
        done = subprocess.run(
            command, env=way.environment(), capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return 0.0
    return float(done.stdout.split()[-1]) if done.returncode == 0 else 0.0


def _free_cores(folder: Path) -> int:
    from leanpipe.engines.llama_cpp import free_cores

    return free_cores() if is_exported(folder) else 1


def _key(folder: Path, free: int, ways: Sequence[Way]) -> str:
    """Names the machine, the libraries, the model's shape and what was tried."""
    packages = _packages(folder, ways)
    facts = [device.model(), device.cores(), free, {name: version(name) for name in packages}, READ, WRITTEN]
    return digest_json(
        [*facts, (folder / "config.json").read_text(), weight_bytes(folder), list(map(str, ways))]
    )[:32]


def _packages(folder: Path, ways: Sequence[Way]) -> tuple[str, ...]:
    if is_gguf(folder):
        more = any(way.gguf == "openvino" for way in ways)
        return ("xllamacpp", "openvino-genai") if more else ("xllamacpp",)
    return ("onnxruntime",) if is_onnx(folder) else ("torch", "transformers")


def _kept(home: Home) -> dict[str, dict[str, float]]:
    if not home.engines.is_file():
        return {}
    with refused_if_unreadable(str(home.engines), "delete it, and the engines are measured again"):
        return dict(json.loads(home.engines.read_text()))
