"""The process that answers OpenAI's API by our own four routes: with llama.cpp or OpenVINO for a GGUF file, onnxruntime
for ONNX, else with transformers.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.engines.llama_cpp import free_cores
from leanpipe.engines.open_engine import GgufEngine, check_engine, engine_of
from leanpipe.models.count import longest_text, read_config
from leanpipe.models.load import load_tokenizer, weights_of
from leanpipe.models.offload import check_weights, is_exported, is_gguf
from leanpipe.processes.parent_death import die_with_parent
from leanpipe.serving import requests
from leanpipe.serving.serve import REFUSAL

_MOST_TOKENS = 8_192
"""Tokens that llama.cpp remembers, where the model can read more: what it may need for them is taken from the start."""


class Engine(Protocol):
    """Answers requests that were read."""

    async def answer(self, request: requests.Request) -> Response:
        """Answer one of them, whole or as a stream."""


def build_app(served: requests.Served, engine: Engine, facts: dict[str, Any]) -> FastAPI:
    """Build the application; `facts` are told to who asks for its health."""
    app = FastAPI(title="leanpipe", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(requests.BadRequest)
    async def refuse(_: Request, refused: requests.BadRequest) -> JSONResponse:
        return JSONResponse(refused.body(), status_code=400)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await engine.answer(requests.read_chat(await _body(request), served))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await engine.answer(requests.read_completion(await _body(request), served))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        named = {"id": served.name, "object": "model", "created": 0, "owned_by": "leanpipe"}
        return {"object": "list", "data": [named]}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", **facts}

    return app


async def _body(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise requests.BadRequest(f"the request is no JSON: {error}") from error


def load(
    name: str,
    folder: Path,
    kind: str,
    dtype: str,
    measured: int = 0,
    threads: int | None = None,
    gguf: GgufEngine = "llama.cpp",
) -> FastAPI:
    """Load the model in `folder`, and build the application that answers as the model `name`.

    `measured` is not 0 where single requests of so many tokens are measured: see `running_server`.
    """
    with without_torch() if is_gguf(folder) else nullcontext():
        tokenizer, context = load_tokenizer(folder), longest_text(read_config(folder))
    if not is_exported(folder):
        from leanpipe.serving.transformers_engine import TransformersEngine

        served = requests.Served(name, tokenizer, context)
        return build_app(served, TransformersEngine(name, kind, dtype), {})
    from leanpipe.serving.exported_engine import SLOTS, ExportedEngine

    check_engine(engine_of(folder, gguf))  # so that its code does not count as the model's memory
    before = device.resident_peak()
    most = measured or _MOST_TOKENS
    longest = min(context or most, most)
    remembered = measured or min(SLOTS * longest, _MOST_TOKENS)
    started = time.perf_counter()
    if measured and threads is None:
        threads = free_cores()  # they stay as many for as long as it is measured
    engine = ExportedEngine(folder, name, remembered, keeps_prompts=not measured, threads=threads, gguf=gguf)
    facts = {
        "engine": engine_of(folder, gguf),
        "memory_before_model": before,
        "threads": engine.threads,
        "load_seconds": time.perf_counter() - started,
    }
    return build_app(requests.Served(name, tokenizer, longest, tools=False), engine, facts)


@contextmanager
def without_torch() -> Iterator[None]:
    """Have transformers take torch for not installed: for a tokenizer alone it would import all of it, two thirds of the start."""
    if "torch" in sys.modules:
        yield
        return
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # or it says that models cannot be had
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's mark of what is not to be found
    try:
        yield
    finally:
        del sys.modules["torch"]  # llama.cpp may need a library that torch brings


def main() -> None:
    """Serve: `python -m leanpipe.serving.engine PARENT NAME FOLDER HOST PORT DEVICE DTYPE GGUF THREADS TOKENS`, until the process PARENT ends."""
    import uvicorn

    parent, name, folder, host, port, kind, dtype, gguf, threads, measured = sys.argv[1:]
    # A parent that was killed outright must not leave its server on the port.
    die_with_parent(signal.SIGTERM, int(parent))
    # With int8, bitsandbytes warns of a cast at every product of every token.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        check_weights(Path(folder))
        with weights_of(Path(folder)):
            app = load(name, Path(folder), kind, dtype, int(measured), int(threads) or None, gguf)  # type: ignore[arg-type]
    except UserError as error:
        REFUSAL.write_text(str(error))  # its parent says it
        sys.exit(1)
    uvicorn.run(app, host=host, port=int(port), log_level="warning" if int(measured) else "info")


if __name__ == "__main__":
    main()
