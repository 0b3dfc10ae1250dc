"""`python -m benchmarks.compression [MODEL …]`: what each format saves and costs, with transformers in FP32 as 1.

By default of SmolLM2-135M-Instruct; a MODEL is a folder, such as the student that `leanpipe run` made. transformers (fp32,
bf16, int8, nf4) is timed in its own process, without HTTP; GGUF formats through the server that `leanpipe serve` starts, HTTP
and all. Each timing is a process of its own, in turns, so that what disturbs one disturbs all. Bits per byte are of the same
held-out text for all. Beside them: what HTTP costs, and what eight streams at once give.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.report import claim, write
from leanpipe.processes.threads import thread_environment

os.environ |= {"HF_HUB_OFFLINE": "1", **thread_environment()}

HOME = Path(__file__).parent / ".compression"
REPEATS = int(os.environ.get("LEANPIPE_BENCH_REPEATS", 5))
READ, WRITTEN, STREAMS = 512, 64, 8
GGUF, OTHERS = ("q8_0", "q4_0"), ("fp32", "bf16", "int8", "nf4")
GOALS = {"q8_0": (7.5, 1.002), "q4_0": (9.0, 1.05)}
"""Decode speed of FP32's at the least, bits per byte of FP32's at the most."""


def main(models: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    for model in models:
        folder, documents = material(model)
        found: dict[str, list[dict[str, float]]] = {form: [] for form in (*OTHERS, *GGUF)}
        for _ in range(REPEATS):
            for form, seen in found.items():
                seen.append(alone("speed", form, folder, documents))
                print(model, form, {name: round(value, 1) for name, value in seen[-1].items()}, flush=True)
        figures = {
            form: median(seen) | alone("bits", form, folder, documents) for form, seen in found.items()
        }
        rows += claims(Path(model).name, figures)
    write("compression", rows)


def claims(model: str, figures: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A row for each goal, and one without for each figure of each format."""
    rows, full = [], figures["fp32"]
    for form, (speed, bits) in GOALS.items():
        ours = figures[form]
        rows.append(claim(f"{model}, {form}, writing", ours["decode"], full["decode"], "tok/s", speed))
        rows.append(claim(f"{model}, {form}, reading", ours["prefill"], full["prefill"], "tok/s", 2.0))
        rows.append(claim(f"{model}, {form}, with HTTP", ours["decode"], ours["in process"], "tok/s", 0.95))
        rows.append(
            claim(f"{model}, {form}, {STREAMS} streams", ours["streams"], ours["decode"], "tok/s", 2.0)
        )
        rows.append(claim(f"{model}, {form}, bits", ours["bits"], full["bits"], "bits/B", bits, at_most=True))
    for form, seen in figures.items():
        print(f"{model}, {form}: " + ", ".join(f"{name} {value:.4g}" for name, value in seen.items()))
        rows.append({"name": f"{model}, {form}", **seen})
    return rows


def median(seen: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in seen) for name in seen[0]}


def material(model: str) -> tuple[Path, Path]:
    """The model in every format, in one folder, and the documents; made by leanpipe's own stages and kept."""
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

    source = resolve_model(model, home, run)
    documents = run(clean, CleanConfig(), {"corpus": resolve_corpus(("sample",), home)})
    made = run(quantize, QuantizeConfig(formats=("int8", "nf4", *GGUF)), {"model": source})
    folder = HOME / "formats" / made.digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for form, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if not (folder / form).exists():
            loaded = load_model(source.path, dtype)
            save_model(loaded, load_tokenizer(source.path), folder / form, dtype)
    for form in ("int8", "nf4", *GGUF):
        if not (folder / form).exists():
            (folder / form).symlink_to((made.path / form).resolve())
    return folder, documents.path


def alone(what: str, form: str, folder: Path, documents: Path) -> dict[str, float]:
    """The figures, by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.compression", what, form, str(folder / form), str(documents)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def loaded(form: str, folder: Path) -> Any:
    import torch

    from leanpipe.models.load import load_model

    return load_model(folder, torch.float32 if form == "fp32" else None)


def bits(form: str, folder: Path, documents: Path) -> dict[str, float]:
    from leanpipe.engines.gguf_logits import GgufLogits
    from leanpipe.evaluation.held_out import held_out
    from leanpipe.evaluation.perplexity import bits_per_byte, score_documents
    from leanpipe.models.load import document_start, load_tokenizer, weight_bytes

    tokenizer = load_tokenizer(folder)
    model = GgufLogits(folder, 512) if form in GGUF else loaded(form, folder)
    texts = [passage.text for passage in held_out(documents, 20_000, 4_000)]
    scores = score_documents(model, tokenizer, texts, document_start(tokenizer), 512)
    return {"bits": bits_per_byte(scores), "MB": weight_bytes(folder) / 1e6}


def speed(form: str, folder: Path, documents: Path) -> dict[str, float]:
    from leanpipe.evaluation.efficiency import measure_speed
    from leanpipe.evaluation.held_out import held_out
    from leanpipe.evaluation.served import Workload, measure_served
    from leanpipe.models.load import load_tokenizer
    from leanpipe.tokens.text_tokens import encode_text

    tokenizer = load_tokenizer(folder)
    text = "\n".join(passage.text for passage in held_out(documents, 20_000, 4_000))
    tokens = encode_text(tokenizer, text)[:READ]
    if form not in GGUF:
        seen = measure_speed(loaded(form, folder), tokenizer, "What is a river?", tokens, WRITTEN, 2)
        return {"decode": seen.decode_tokens_per_second, "prefill": seen.prefill_tokens_per_second}
    work = Workload(("What is a river?",), 1, tokens, WRITTEN, 2)
    seen = measure_served(folder, tokenizer, work).speed
    return {
        "decode": seen.decode_tokens_per_second,
        "prefill": seen.prefill_tokens_per_second,
        "in process": in_process(folder, tokens),
        "streams": streams(folder),
    }


def in_process(folder: Path, tokens: list[int]) -> float:
    """Tokens per second that llama.cpp itself counts, without HTTP."""
    from leanpipe.engines.llama_cpp import LlamaCpp
    from leanpipe.models.offload import GGUF_FILE

    engine = LlamaCpp(folder / GGUF_FILE, READ + WRITTEN + 1)
    asked = {
        "prompt": tokens,
        "max_tokens": WRITTEN,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    return statistics.median(engine.complete(asked)["timings"]["predicted_per_second"] for _ in range(3))


def streams(folder: Path) -> float:
    """Tokens per second of several requests together, each with a short prompt, through the server."""
    import openai

    from leanpipe.evaluation.served import free_port
    from leanpipe.serving.serve import running_server

    with running_server(folder, port=free_port()) as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

        def ask(number: int) -> int:
            answer = client.completions.create(
                model="leanpipe", prompt=f"{number}. The river rises in the hills", max_tokens=WRITTEN
            )
            assert answer.usage
            return answer.usage.completion_tokens

        ask(0)
        started = time.perf_counter()
        with ThreadPoolExecutor(STREAMS) as threads:
            written = sum(threads.map(ask, range(STREAMS)))
        return written / (time.perf_counter() - started)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("speed", "bits"):
        what, form, *paths = sys.argv[1:]
        print(json.dumps((speed if what == "speed" else bits)(form, *map(Path, paths))))
    else:
        main(sys.argv[1:] or ["smollm2-135m-instruct"])
