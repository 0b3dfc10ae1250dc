"""The process that answers OpenAI's API: transformers' handlers behind our own four routes.

`transformers serve` itself has more: routes without authentication that load any local folder or throw the model out, and
fields that it takes and ignores. Here a request reaches a handler only after `requests` has read it.
"""

import json
import logging
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerationState

from leanpipe.core.errors import UserError
from leanpipe.models.count import longest_text, read_config
from leanpipe.models.load import load_tokenizer, weights_of
from leanpipe.models.offload import check_weights
from leanpipe.processes.parent_death import die_with_parent
from leanpipe.serving import answers, requests
from leanpipe.serving.serve import REFUSAL


class _Sampling:
    """Reads temperature and top_p as OpenAI does: above 0 the answer is drawn, whatever the model's own habit."""

    def _build_generation_config(
        self, body: dict[str, Any], own: GenerationConfig, use_cb: bool = False
    ) -> Any:
        config = super()._build_generation_config(body, own, use_cb)  # type: ignore[misc]
        temperature, top_p = body.get("temperature"), body.get("top_p")
        if temperature is not None or top_p is not None:
            config.do_sample = temperature != 0 and top_p != 0
            if not config.do_sample:
                config.temperature = config.top_p = config.top_k = None
            elif temperature is None:
                config.temperature = 1.0
        if body.get("logit_bias") is not None:  # text completions forget it
            config.sequence_bias = {(int(token),): float(bias) for token, bias in body["logit_bias"].items()}
        return config


class _Chat(_Sampling, ChatCompletionHandler):
    pass


class _Completion(_Sampling, CompletionHandler):
    pass


def build_app(name: str, folder: Path, device: str, dtype: str) -> FastAPI:
    """Load the model in `folder` and build the application that answers as the model `name`."""
    manager = ModelManager(device=device, dtype=dtype, force_model=name)  # loads it, for good
    state = GenerationState()
    chat, completion = _Chat(manager, state), _Completion(manager, state)
    served = requests.Served(name, load_tokenizer(folder), longest_text(read_config(folder)))
    app = FastAPI(title="leanpipe", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(requests.BadRequest)
    async def refuse(_: Request, refused: requests.BadRequest) -> JSONResponse:
        return JSONResponse(refused.body(), status_code=400)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(chat, requests.read_chat(await _body(request), served))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(completion, requests.read_completion(await _body(request), served))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "leanpipe"}],
        }

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def _body(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise requests.BadRequest(f"the request is no JSON: {error}") from error


async def _answer(handler: Any, request: requests.Request) -> Response:
    fields = request.fields | {"stream": request.stream}
    answer = await handler.handle_request(fields, uuid.uuid4().hex)
    if isinstance(answer, StreamingResponse):
        return StreamingResponse(
            answers.finish_stream(answer.body_iterator, request), media_type="text/event-stream"
        )
    return JSONResponse(answers.finish(json.loads(answer.body), request), status_code=answer.status_code)


def main() -> None:
    """Serve: `python -m leanpipe.serving.engine PARENT NAME FOLDER HOST PORT DEVICE DTYPE`; ends with the process PARENT."""
    import uvicorn

    parent, name, folder, host, port, device, dtype = sys.argv[1:]
    # A parent that was killed outright must not leave its server on the port.
    die_with_parent(signal.SIGTERM, int(parent))
    # With int8, bitsandbytes warns of a cast at every product of every token.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        check_weights(Path(folder))
        with weights_of(Path(folder)):
            app = build_app(name, Path(folder), device, dtype)
    except UserError as error:
        REFUSAL.write_text(str(error))  # its parent says it
        sys.exit(1)
    uvicorn.run(app, host=host, port=int(port), log_level="info")


if __name__ == "__main__":
    main()
