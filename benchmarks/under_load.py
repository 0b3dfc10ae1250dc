"""`python -m benchmarks.under_load [run]`: leanpipe alone, and beside as many busy processes as there are cores.

Ours is what stages get today (`leanpipe/processes/threads.py`); the peer waits as OpenMP does if nothing is set, as ours did
before. Three kinds of work, each for some seconds in a process of its own, ours and the peer in turns: training the smoke
preset's model of two layers, training layers of SmolLM2's shape, and writing with them token by token. Alone ours must lose
nothing; beside the others it may take twice as long. Four minutes; `run` also makes the whole smoke run, once alone and once
beside the others, three minutes more (on a quiet machine). Nothing else may run, or the figures say nothing.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.report import claim, write
from leanpipe.processes.threads import thread_environment

WORK = ("tiny training", "training", "writing")
SECONDS = float(os.environ.get("LEANPIPE_BENCH_SECONDS", 5))
REPEATS = int(os.environ.get("LEANPIPE_BENCH_REPEATS", 2))
CORES = len(os.sched_getaffinity(0))
_WARM_UP = 3  # steps
PEER = {"GOMP_SPINCOUNT": "300000"}
"""GNU's own default."""
ALONE, SLOWER = 0.95, 2.0
"""Ours alone over the peer alone, at least; ours beside others over ours alone, at most."""


def main() -> None:
    rows = []
    for work in WORK:
        alone, beside = speeds(work, 0), speeds(work, CORES)
        rows += [
            claim(f"{work}, alone", alone["ours"], alone["peer"], "steps/s", ALONE),
            claim(f"{work}, beside {CORES} busy processes", beside["ours"], beside["peer"], "steps/s", 1),
            claim(
                f"{work}, times as long beside them",
                alone["ours"],
                beside["ours"],
                "steps/s",
                SLOWER,
                at_most=True,
            ),
        ]
    if "run" in sys.argv[1:]:
        rows.append(smoke_runs())
    write("under_load", rows)


def speeds(work: str, busy: int) -> dict[str, float]:
    """Median steps per second of ours and of the peer, in turns, beside so many busy processes."""
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    with busy_processes(busy):
        for _ in range(REPEATS):
            for who, chosen in (("ours", thread_environment({})), ("peer", PEER)):
                found[who].append(apart(work, chosen))
    return {who: statistics.median(values) for who, values in found.items()}


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Keep so many cores busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def apart(work: str, chosen: dict[str, str]) -> float:
    """Steps per second of a process of its own."""
    unset = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | chosen
    command = [sys.executable, "-m", "benchmarks.under_load", "--work", work]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def smoke_runs() -> dict[str, Any]:
    """The whole smoke run, beside others and alone."""
    beside, alone = smoke_run(CORES), smoke_run(0)
    return claim(f"smoke run beside {CORES}, over alone", beside, alone, "s", SLOWER, at_most=True)


def smoke_run(busy: int) -> float:
    """Seconds of `leanpipe run --preset smoke` where nothing was run before."""
    with tempfile.TemporaryDirectory() as home, busy_processes(busy):
        started = time.perf_counter()
        command = [sys.executable, "-m", "flows.cli.main", "run", "--preset", "smoke"]
        subprocess.run(
            command, env=os.environ | {"LEANPIPE_HOME": home}, stdout=subprocess.DEVNULL, check=True
        )
        return time.perf_counter() - started


def work_here(work: str) -> None:
    """Do the work for `SECONDS`, and print the steps per second."""
    step = _writing() if work == "writing" else _training(tiny=work == "tiny training")
    for _ in range(_WARM_UP):
        step()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() < started + SECONDS:
        step()
        steps += 1
    print(json.dumps(steps / (time.perf_counter() - started)))


def _model(tiny: bool) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if tiny:
        sizes = {"vocab_size": 2_048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    else:
        sizes = {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536, "num_hidden_layers": 6}
        heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True))


def _training(tiny: bool) -> Callable[[], None]:
    import torch

    from leanpipe.core import device

    model, short = _model(tiny), not tiny and device.has_bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(0, model.config.vocab_size, (8, 128) if tiny else (1, 256))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _writing() -> Callable[[], None]:
    import torch

    from leanpipe.core import device

    model = _model(tiny=False).to(device.compute_dtype()).eval()
    begun = torch.randint(0, model.config.vocab_size, (1, 16))

    @torch.no_grad()
    def step() -> None:
        model.generate(begun, max_new_tokens=16, min_new_tokens=16, do_sample=False, pad_token_id=0)

    return step


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work_here(sys.argv[2])
    else:
        main()
