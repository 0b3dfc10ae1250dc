"""`python -m benchmarks.engine_options [FOLDER …]`: what llama.cpp's own options are worth on this machine, as multiples of how it runs by default.

A FOLDER holds a GGUF model; by default q8_0 and q4_0 of the last run in LEANPIPE_HOME. Each option has a process of its own, in
which it reads 512 tokens, writes 64 to one request, then to eight at once, and then to one beside a process that is always busy
and came after it was loaded. No HTTP. Goals: eight write at least twice as much as one; beside a busy process at least half of
what the first option writes in quiet. Seven minutes for two models on two cores; nothing else may run. LEANPIPE_BENCH_REPEATS (3) and
LEANPIPE_BENCH_OPTIONS, names separated by commas (all), make it shorter.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.compression import a_busy_process
from benchmarks.report import claim, write
from leanpipe.core import device
from leanpipe.processes.threads import thread_environment

READ, WRITTEN, STREAMS, CONTEXT = 512, 64, 8, 2_048
REPEATS = int(os.environ.get("LEANPIPE_BENCH_REPEATS", 3))
TOGETHER, BUSY = 2.0, 0.5
"""Goals: eight streams over one, and beside a busy process over quiet."""
_GREEDY = {"temperature": 0.0, "ignore_eos": True, "cache_prompt": False}


class Option(NamedTuple):
    """How an engine is started, and asked, otherwise than by default."""

    change: Callable[[Any], None] = lambda parameters: None
    """Of llama.cpp's parameters."""
    environment: Mapping[str, str] = {}
    fields: Mapping[str, Any] = {}
    """Of a request."""
    threads: int | None = device.cores()
    """None for as many as are free at each request."""


def _set(**values: Any) -> Callable[[Any], None]:
    def change(parameters: Any) -> None:
        for name, value in values.items():
            setattr(parameters, name, value)

    return change


def _flash(kind: str) -> Callable[[Any], None]:
    def change(parameters: Any) -> None:
        import xllamacpp

        parameters.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{kind}")

    return change


def _small_cache(parameters: Any) -> None:
    import xllamacpp

    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_Q8_0
    _flash("ENABLED")(parameters)  # which a cache of whole numbers takes


OPTIONS: dict[str, Option] = {
    "by default": Option(),
    "threads that follow": Option(threads=None),
    "0 spins": Option(environment={"GOMP_SPINCOUNT": "0"}),
    "100 spins": Option(environment={"GOMP_SPINCOUNT": "100"}),
    "20000 spins": Option(environment={"GOMP_SPINCOUNT": "20000"}),
    "threads bound to cores": Option(environment={"OMP_PROC_BIND": "true"}),
    "one thread": Option(threads=1),
    "a cache for each stream": Option(_set(kv_unified=False)),
    "no flash attention": Option(_flash("DISABLED")),
    "flash attention": Option(_flash("ENABLED")),
    "cache in q8_0": Option(_small_cache),
    "weights not rearranged": Option(_set(no_extra_bufts=True)),
    "reads 128 at once": Option(_set(n_ubatch=128)),
    "likeliest alone is sampled": Option(fields={"samplers": ["penalties", "top_k"], "top_k": 1}),
}


def main(folders: list[Path]) -> None:
    asked = os.environ.get("LEANPIPE_BENCH_OPTIONS")
    names = asked.split(",") if asked else list(OPTIONS)
    rows: list[dict[str, Any]] = []
    for folder in folders:
        first: dict[str, float] = {}
        for name in names:
            found = apart(folder, name)
            first = first or found
            told = ", ".join(f"{what} {found[what]:.4g} ({found[what] / first[what]:.2f})" for what in found)
            print(f"{folder.name}, {name}: {told}", flush=True)
            rows.append({"name": f"{folder.name}, {name}", **found})
            named = f"{folder.name}, {name}"
            rows.append(
                claim(f"{named}, {STREAMS} streams", found["streams"], found["write"], "tok/s", TOGETHER)
            )
            rows.append(claim(f"{named}, beside a busy one", found["beside"], first["write"], "tok/s", BUSY))
    write("engine_options", rows)


def apart(folder: Path, name: str) -> dict[str, float]:
    """The speeds of one option, in a process of its own."""
    environment = {**os.environ, **thread_environment(), **OPTIONS[name].environment}
    command = [sys.executable, "-m", "benchmarks.engine_options", "--one", name, str(folder)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one(name: str, folder: Path) -> None:
    """Time one option here, and print tokens a second as JSON."""
    from leanpipe.engines import llama_cpp
    from leanpipe.models.offload import GGUF_FILE
    from leanpipe.serving.exported_engine import _NEUTRAL

    option = OPTIONS[name]

    class Tuned(llama_cpp.LlamaCpp):
        """The engine, with the option."""

        def _parameters(self, threads: int) -> Any:
            parameters = super()._parameters(threads)
            option.change(parameters)
            return parameters

    engine = Tuned(folder / GGUF_FILE, STREAMS * CONTEXT, STREAMS, option.threads)
    starts = iter(range(100, 10_000))  # every prompt begins otherwise, so that none was read before

    def write_one(most: int = WRITTEN, read: int = 16) -> None:
        prompt = [next(starts), *range(3, 2 + read)]
        engine.complete({"prompt": prompt, "max_tokens": most, **_NEUTRAL, **_GREEDY, **option.fields})

    def write_together() -> None:
        with ThreadPoolExecutor(STREAMS) as threads:
            list(threads.map(lambda _: write_one(), range(STREAMS)))

    write_one()
    found = {
        "read": READ / median_seconds(lambda: write_one(1, READ)),
        "write": WRITTEN / median_seconds(write_one),
        "streams": STREAMS * WRITTEN / median_seconds(write_together),
    }
    with a_busy_process():
        found["beside"] = WRITTEN / median_seconds(write_one)
    print(json.dumps(found), flush=True)


def median_seconds(work: Callable[[], None]) -> float:
    """Of a few times that something is done, what it took in the middle one."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def last_gguf() -> list[Path]:
    """The newest folders of q8_0 and q4_0 in the store of LEANPIPE_HOME."""
    from leanpipe.core.home import Home

    store = Home.from_environment().store
    found = [max(store.glob(f"quantize/*/{form}"), key=_made, default=None) for form in ("q8_0", "q4_0")]
    there = [folder for folder in found if folder]
    if not there:
        raise SystemExit(f"{store} holds no GGUF model: make one with `leanpipe run`, or give its folder")
    return there


def _made(folder: Path) -> float:
    return folder.stat().st_mtime


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]))
    else:
        main([Path(folder) for folder in sys.argv[1:]] or last_gguf())
