"""`python -m benchmarks.compression [MODEL …]`: what each format saves and costs, with transformers in FP32 as 1.

By default of SmolLM2-135M-Instruct. A MODEL is a folder, or `student`: what the last `leanpipe run` finetuned (in
LEANPIPE_HOME). transformers (fp32, bf16, int8, nf4, torchao_int8, auto_round_int4) is timed in its own process, without HTTP; the others through the server
that `leanpipe serve` starts. Every model has a process of its own for as long as the benchmark takes; they are timed in
turns, so that what disturbs one disturbs all, and one works at a time. Then, for served ones: HTTP against the same request
in process by whole times, eight streams, and one beside a process that is always busy. Bits per byte are of the same held-out
documents, with the interval of their difference to FP32's. GGUF files are run by llama.cpp, and as `q4_0_openvino` by OpenVINO.

Shorter: `--repeats 1`, `--forms fp32,q4_0`, `--text-bytes 4000` (through make: ARGS="--repeats 1 student").
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.compression_worker import BY_OPENVINO, STREAMS
from benchmarks.report import claim, write
from leanpipe.processes.threads import thread_environment

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **thread_environment()}

HOME = Path(__file__).parent / ".compression"
REPEATS = int(os.environ.get("LEANPIPE_BENCH_REPEATS", 3))
GGUF = ("q8_0", "q4_0")
OPENVINO = tuple(f"{form}{BY_OPENVINO}" for form in GGUF)
"""The same files, by OpenVINO."""
BITSANDBYTES = ("int8", "nf4")
TORCHAO, AUTO_ROUND = "torchao_int8", "auto_round_int4"
COMPILED = "torchao_int8_compiled"
"""The same folder, by torch.compile, which no server of ours does."""
ONNX = ("onnx", "onnx_int8", "onnx_int4")
FORMS = ("fp32", "bf16", *BITSANDBYTES, TORCHAO, COMPILED, AUTO_ROUND, *GGUF, *OPENVINO, *ONNX)
GOALS = {"q8_0": (7.5, 1.002), "q4_0": (9.0, 1.05)}
GOALS |= {f"{form}{BY_OPENVINO}": goals for form, goals in GOALS.items()}
"""Decode speed of FP32's at the least, bits per byte of FP32's at the most: of the formats that are served by default."""
BITS = {
    "fp32": (32, 32),
    "bf16": (16, 16),
    "int8": (8, 16),
    "nf4": (4.127, 16),
    TORCHAO: (8, 16),
    COMPILED: (8, 16),
    AUTO_ROUND: (4.3125, 16),
    "q8_0": (8.5, 8.5),
    "q4_0": (4.5, 5.5),
    "onnx": (32, 32),
    "onnx_int8": (9, 9),
    "onnx_int4": (5, 9),
}
"""Bits of a weight of the layers, and of the embeddings: what the formats say of themselves."""
BUSY = "while True: pass"


class Worker:
    """A process that has a model loaded and times it when told."""

    def __init__(self, form: str, folder: Path, documents: Path):
        command = [sys.executable, "-m", "benchmarks.compression_worker", form, str(folder), str(documents)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.said = self._read()["ready"]

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(f"{command}\n")
        return self._read()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"a worker ended with code {self._process.wait()}: see what it said above")


def main(asked: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for model in asked.models:
        started = time.monotonic()
        folder, documents, name = material(model, asked.forms)
        say(f"{name}: every form is there after {time.monotonic() - started:.0f} s")
        figures = measured(name, asked, folder, documents)
        rows += claims(name, folder, figures)
        say(f"{name}: {time.monotonic() - started:.0f} s in all")
        write("compression", rows)


def measured(
    name: str, asked: argparse.Namespace, folder: Path, documents: Path
) -> dict[str, dict[str, Any]]:
    """Every figure of every form, by form."""
    with ExitStack() as stack:
        workers = {}
        for form in asked.forms:
            workers[form] = Worker(form, folder / stored(form), documents)
            stack.callback(workers[form].close)
            say(f"{name}, {form}: {workers[form].said}")
        turns: dict[str, list[dict[str, float]]] = {form: [] for form in workers}
        for turn in range(asked.repeats + 1):  # the first one only warms up
            for form, worker in workers.items():
                seen = worker.ask("turn")
                say(f"{name}, {form}, {'turn ' + str(turn) if turn else 'to warm up'}: {told(seen)}")
                if turn:
                    turns[form].append(seen)
        figures: dict[str, dict[str, Any]] = {form: median(seen) for form, seen in turns.items()}
        for form, worker in workers.items():
            if form in GOALS:
                figures[form] |= worker.ask("streams")
                figures[form] |= beside_a_busy_process(worker, form, folder / stored(form), documents)
            figures[form] |= worker.ask(f"bits {asked.text_bytes}")
            say(f"{name}, {form}: {told(figures[form])}")
    return figures


def beside_a_busy_process(worker: Worker, form: str, folder: Path, documents: Path) -> dict[str, float]:
    """Tokens per second beside a process that is always busy: of a server that was there before it, and of one begun then."""
    with a_busy_process():
        before = statistics.median(worker.ask("decode")["decode"] for _ in range(3))
        later = Worker(form, folder, documents)
        later.ask("decode")
        after = statistics.median(later.ask("decode")["decode"] for _ in range(3))
        later.close()
    return {"beside a busy process": before, "begun beside it": after}


@contextmanager
def a_busy_process() -> Iterator[None]:
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        time.sleep(1)
        yield
    finally:
        busy.kill()
        busy.wait()


def claims(model: str, folder: Path, figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each goal, and one without for each figure of each format."""
    rows: list[dict[str, Any]] = []
    full = figures.get("fp32")
    for form, (speed, most_bits) in GOALS.items():
        if form not in figures:
            continue
        ours, named = figures[form], f"{model}, {form}"
        if full:
            rows.append(claim(f"{named}, writing", ours["decode"], full["decode"], "tok/s", speed))
            rows.append(claim(f"{named}, reading", ours["prefill"], full["prefill"], "tok/s", 2.0))
            rows.append(quality(named, ours, full, most_bits))
        rows.append(claim(f"{named}, with HTTP", ours["http"], ours["in process"], "tok/s", 0.95))
        rows.append(claim(f"{named}, streamed", ours["streamed"], ours["in process"], "tok/s", 0.95))
        rows.append(claim(f"{named}, {STREAMS} streams", ours["streams"], ours["one stream"], "tok/s", 2.0))
        for what in ("beside a busy process", "begun beside it"):
            rows.append(claim(f"{named}, {what}", ours[what], ours["decode"], "tok/s", 0.5))
    for form, seen in figures.items():
        if form in BITS:
            size = arithmetic(folder / "bf16", form)
            rows.append(claim(f"{model}, {form}, size", seen["MB"], size, "MB", 1.05, at_most=True))
        say(f"{model}, {form}: {told(seen)}")
        rows.append({"name": f"{model}, {form}", **{name: seen[name] for name in seen if name != "scores"}})
    return rows


def quality(named: str, ours: dict[str, Any], full: dict[str, Any], most: float) -> dict[str, Any]:
    """The row of bits per byte, with the interval of the difference on the same documents."""
    from leanpipe.evaluation.paired import Evaluated, paired_difference
    from leanpipe.evaluation.perplexity import Score

    one, other = (
        Evaluated({}, {str(number): Score(*score) for number, score in enumerate(seen["scores"])})
        for seen in (ours, full)
    )
    found = paired_difference(one, other, list(one.scores), 0.95)
    low, high = 1 + found.share(found.low), 1 + found.share(found.high)
    row = claim(f"{named}, bits", found.ours, found.theirs, "bits/B", most, at_most=True)
    say(f"{'':<46} of FP32's, with 95% confidence: {low:.4f} to {high:.4f} ({found.documents} documents)")
    return row | {"low": low, "high": high}


def arithmetic(folder: Path, form: str) -> float:
    """Megabytes of the weights by their number and what the format says of itself: no scales or tokenizers beside it."""
    from leanpipe.models.count import empty_model, read_config

    model = empty_model(read_config(folder))
    shared = {
        id(one): one for one in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    }
    vocabulary = sum(one.numel() for one in shared.values())
    layers, embeddings = BITS[form]
    return ((model.num_parameters() - vocabulary) * layers + vocabulary * embeddings) / 8e6


def told(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "scores")


def say(line: str) -> None:
    print(line, flush=True)


def median(seen: list[dict[str, float]]) -> dict[str, Any]:
    return {name: statistics.median(one[name] for one in seen) for name in seen[0]}


def material(model: str, forms: tuple[str, ...]) -> tuple[Path, Path, str]:
    """The model in every form, in one folder, the documents, and the model's name; made by leanpipe's own stages and kept."""
    import torch

    from leanpipe.assets.resolve import resolve_corpus, resolve_model
    from leanpipe.compression.quantize import QuantizeConfig, quantize
    from leanpipe.core.home import Home
    from leanpipe.core.report import Silent
    from leanpipe.core.stage import Inputs, Stage
    from leanpipe.core.store import Artifact, Store
    from leanpipe.corpus.clean import CleanConfig, clean
    from leanpipe.models.load import load_model, load_tokenizer, save_model
    from leanpipe.processes.run_stage import run_stage

    home = Home(HOME)

    def run(stage: Stage, config: Any, inputs: Inputs) -> Artifact:
        return run_stage(stage, config, inputs, Store(home.store), Silent())

    source = resolve_model(str(last_student()) if model == "student" else model, home, run)
    documents = run(clean, CleanConfig(), {"corpus": resolve_corpus(("sample",), home)})
    folder = HOME / "formats" / source.digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for form, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if not (folder / form).exists():
            loaded = load_model(source.path, dtype)
            save_model(loaded, load_tokenizer(source.path), folder / form, dtype)
    for form in dict.fromkeys(map(stored, forms)):
        if form not in (*BITSANDBYTES, TORCHAO, AUTO_ROUND, *GGUF, *ONNX):
            continue
        given = {"model": source, "documents": documents}  # as in the pipeline
        made = run(quantize, QuantizeConfig(formats=(form,)), given)
        if not (folder / form).exists():
            (folder / form).symlink_to((made.path / form).resolve())
    return folder, documents.path, model if model == "student" else Path(model).name


def stored(form: str) -> str:
    """The folder that a form is run from."""
    return TORCHAO if form == COMPILED else form.removesuffix(BY_OPENVINO)


def last_student() -> Path:
    """The folder of the newest finetuned model in the store of LEANPIPE_HOME."""
    from leanpipe.core.home import Home
    from leanpipe.core.store import MANIFEST, Store

    store = Home.from_environment().store
    found = [path for path, _ in Store(store).manifests("finetune")]
    if not found:
        raise SystemExit(
            f"{store} holds no finetuned model: make one with `leanpipe run`, or give its folder"
        )
    return max(found, key=lambda path: (path / MANIFEST).stat().st_mtime)


def installed(forms: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the forms that can be run here; of the others it is said why not."""
    needed = {TORCHAO: "torchao", COMPILED: "torchao", AUTO_ROUND: "auto_round_kernel"}
    needed |= dict.fromkeys(ONNX, "onnxruntime") | dict.fromkeys(OPENVINO, "openvino_genai")
    there = tuple(form for form in forms if importlib.util.find_spec(needed.get(form, "torch")))
    for form in forms:
        if form not in there:
            say(f"{form} is left out: the package {needed[form]} is not installed")
    return there


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression")
    parser.add_argument("models", nargs="*", default=["smollm2-135m-instruct"], help="folders, or `student`")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="turns that count")
    parser.add_argument(
        "--forms", default=",".join(FORMS), help="separated by commas; fp32 is what others are measured by"
    )
    parser.add_argument("--text-bytes", type=int, default=20_000, help="held-out text for the bits per byte")
    asked = parser.parse_args()
    asked.forms = installed(tuple(asked.forms.split(",")))
    return asked


if __name__ == "__main__":
    main(arguments())
