"""One model in one form, in a process of its own that times it whenever it is told to.

`python -m benchmarks.compression_worker FORM FOLDER DOCUMENTS` reads commands from stdin, a line each, and answers each with
a line of JSON. What transformers runs is timed in this process; what other engines run, through the server that `leanpipe
serve` starts for it. Every request begins otherwise than those before it, so that no server has read it already.
"""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leanpipe.engines.open_engine import GgufEngine

READ, WRITTEN, STREAMS = int(os.environ.get("LEANPIPE_BENCH_READ", 512)), 64, 8
"""Tokens that are read and written, and requests at once; a model that reads fewer needs LEANPIPE_BENCH_READ."""
QUESTION = "What is a river, and why does it matter to the towns along its banks?"
BY_OPENVINO = "_openvino"
"""How the name of a form ends whose GGUF file is run by OpenVINO."""

Command = Callable[[], dict[str, Any]]


class InProcess:
    """A model that transformers runs: in fp32, bf16, bitsandbytes', torchao's or AutoRound's formats."""

    def __init__(self, form: str, folder: Path, text: list[int], question: list[int]):
        import torch

        from leanpipe.models.load import load_model

        self._model = load_model(folder, torch.float32 if form == "fp32" else None)
        self._text, self._question, self._cache = text, question, None
        if form == "torchao_int8_compiled":
            self._compile()

    def _compile(self) -> None:
        """Compiled for two shapes alone, reading and one token: caches that grow would be compiled again and again."""
        import torch
        from transformers import StaticCache

        self._cache = StaticCache(config=self._model.config, max_cache_len=READ + WRITTEN + 2)
        self._model.forward = torch.compile(self._model.forward, dynamic=False)

    def commands(self) -> dict[str, Command]:
        return {"turn": self.turn, "decode": lambda: {"decode": WRITTEN / self._timed(self._question)[1]}}

    def turn(self) -> dict[str, float]:
        reading, _ = self._timed(self._text, 0)
        _, writing = self._timed(self._question)
        return {"prefill": len(self._text) / reading, "decode": WRITTEN / writing}

    def _timed(self, tokens: list[int], count: int = WRITTEN) -> tuple[float, float]:
        """Seconds to read the tokens, and to write so many further ones."""
        import torch

        cache = self._cache
        if cache is not None:
            cache.reset()
        given, place = torch.tensor([tokens]), 0
        times = [time.perf_counter()]
        with torch.inference_mode():
            for _ in range(1 + count):
                more = {} if self._cache is None else {"position_ids": self._places(place, given.shape[1])}
                out = self._model(
                    input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1, **more
                )
                place += given.shape[1]
                cache, given = out.past_key_values, out.logits[:, -1:].argmax(-1)
                times.append(time.perf_counter())
        return times[1] - times[0], times[-1] - times[1]

    @staticmethod
    def _places(first: int, count: int) -> Any:
        import torch

        return torch.arange(first, first + count)[None]


class Served:
    """A model behind the server of `leanpipe serve`, and beside it its engine in this process."""

    def __init__(self, folder: Path, text: str, tokenizer: Any, url: str, threads: int, gguf: "GgufEngine"):
        self._folder, self._text, self._url, self._gguf = folder, text, url, gguf
        self._tokenizer, self._threads = tokenizer, threads
        self._numbers = itertools.count(int(time.time()) % 100_000)
        self._engine: Any = None

    def commands(self) -> dict[str, Command]:
        return {"turn": self.turn, "decode": self.decode, "streams": self.streams}

    def turn(self) -> dict[str, float]:
        seconds, usage = self._ask(self._anew(self._text), 1)
        found = {"prefill": usage["prompt_tokens"] / seconds} | self.decode()
        asked = self._anew(QUESTION)
        own = self._in_process(asked)
        seconds, usage = self._ask(self._anew(QUESTION), WRITTEN)
        found |= {"http": usage["completion_tokens"] / seconds, "in process": own}
        seconds, usage = self._ask(self._anew(QUESTION), WRITTEN, stream=True)
        return found | {"streamed": usage["completion_tokens"] / seconds}

    def decode(self) -> dict[str, float]:
        """Tokens per second after the first, by the whole time of two requests: parts of a stream may come together."""
        one = min(
            self._ask(self._anew(QUESTION), 1)[0] for _ in range(2)
        )  # one that was disturbed is no beginning
        all_, usage = self._ask(self._anew(QUESTION), 1 + WRITTEN)
        return {"decode": (usage["completion_tokens"] - 1) / (all_ - one)}

    def streams(self) -> dict[str, float]:
        """Tokens per second of several short requests together, and of one of them alone."""
        found = {}
        for name, count in (("one stream", 1), ("streams", STREAMS)):
            asked = [self._anew(QUESTION) for _ in range(count)]
            started = time.perf_counter()
            with ThreadPoolExecutor(count) as threads:
                answers = list(threads.map(lambda text: self._ask(text, WRITTEN), asked))
            written = sum(usage["completion_tokens"] for _, usage in answers)
            found[name] = written / (time.perf_counter() - started)
        return found

    def _anew(self, text: str) -> str:
        return f"{next(self._numbers)}. {text}"

    def _ask(self, prompt: str, most: int, stream: bool = False) -> tuple[float, dict[str, int]]:
        """Seconds from the question to the last byte of the answer, and how many tokens it took."""
        import urllib.request

        body = {
            "model": "leanpipe",
            "prompt": prompt,
            "max_tokens": most,
            "temperature": 0,
            "ignore_eos": True,
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        request = urllib.request.Request(
            f"{self._url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        started = time.perf_counter()
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            read = answer.read()
        seconds = time.perf_counter() - started
        if not stream:
            return seconds, json.loads(read)["usage"]
        events = [json.loads(line[6:]) for line in read.split(b"\n") if line.startswith(b"data: {")]
        return seconds, next(event["usage"] for event in reversed(events) if event.get("usage"))

    def _in_process(self, prompt: str) -> float:
        """Tokens per second of the same request by the engine itself, by the whole time that it takes."""
        if self._engine is None:
            self._engine = in_process(self._folder, self._threads, self._gguf)
            self._engine(self._tokenizer("to warm up")["input_ids"], 2)
        tokens = self._tokenizer(prompt)["input_ids"]
        started = time.perf_counter()
        written = self._engine(tokens, WRITTEN)
        return written / (time.perf_counter() - started)


def in_process(folder: Path, threads: int, gguf: "GgufEngine") -> Callable[[list[int], int], int]:
    """The engine that the server has, without it: takes tokens and how many to write, and returns how many it wrote."""
    from leanpipe.engines.open_engine import open_engine

    engine = open_engine(folder, 2_048, 1, threads, gguf)
    asked = {"temperature": 0.0, "ignore_eos": True, "cache_prompt": False}

    def write(tokens: list[int], most: int) -> int:
        return engine.complete({"prompt": tokens, "max_tokens": most, **asked})["usage"]["completion_tokens"]

    return write


def engine_of(form: str) -> "GgufEngine":
    """Name what runs the GGUF file of a form."""
    return "openvino" if form.endswith(BY_OPENVINO) else "llama.cpp"


def bits(form: str, folder: Path, documents: Path, text_bytes: int) -> dict[str, Any]:
    """Nats, tokens and bytes of each held-out document, and the size of the weights on disk."""
    import torch

    from leanpipe.engines.open_engine import open_logits
    from leanpipe.evaluation.held_out import held_out
    from leanpipe.evaluation.perplexity import score_documents
    from leanpipe.models.load import document_start, load_model, load_tokenizer, weight_bytes
    from leanpipe.models.offload import is_exported

    tokenizer = load_tokenizer(folder)
    model: Any
    if is_exported(folder):
        model = open_logits(folder, 512, engine_of(form))
    else:
        model = load_model(folder, torch.float32 if form == "fp32" else None)
    texts = [passage.text for passage in held_out(documents, text_bytes, 4_000)]
    scores = score_documents(model, tokenizer, texts, document_start(tokenizer), 512)
    return {
        "scores": [[one.nats, one.tokens, one.bytes] for one in scores],
        "MB": weight_bytes(folder) / 1e6,
    }


@contextlib.contextmanager
def opened(form: str, folder: Path, documents: Path) -> Iterator[tuple[Any, str]]:
    """The model ready to be timed, and what there is to say of it."""
    from leanpipe.evaluation.held_out import held_out
    from leanpipe.evaluation.served import free_port
    from leanpipe.models.load import load_tokenizer
    from leanpipe.models.offload import is_exported
    from leanpipe.serving.engine_choice import Way
    from leanpipe.serving.serve import running_server
    from leanpipe.tokens.text_tokens import encode_text

    tokenizer = load_tokenizer(folder)
    text = "\n".join(passage.text for passage in held_out(documents, 20_000, 4_000))
    tokens = encode_text(tokenizer, text)[:READ]
    if not is_exported(folder):
        yield InProcess(form, folder, tokens, encode_text(tokenizer, QUESTION)), "transformers"
        return
    log = folder.with_name(f"{form}.log").open("wb")
    gguf = engine_of(form)
    with log, running_server(folder, port=free_port(), log=log, way=Way(gguf=gguf)) as (url, _):
        threads = health(url)["threads"]
        served = Served(folder, str(tokenizer.decode(tokens)), tokenizer, url, threads, gguf)
        yield served, f"a server of {threads} threads"


def health(url: str) -> dict[str, Any]:
    """What a server says of itself."""
    import urllib.request

    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health") as answer:
        return json.load(answer)


def main() -> None:
    """Answer commands until there are no more."""
    form, folder, documents = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with opened(form, folder, documents) as (model, said):
        commands = model.commands()
        print(json.dumps({"ready": said}), flush=True)
        for line in sys.stdin:
            name, *rest = line.split()
            found = bits(form, folder, documents, int(rest[0])) if name == "bits" else commands[name]()
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
