"""Answers by transformers' own handlers, for every model that transformers runs.

`transformers serve` itself has more: routes without authentication that load any local folder or throw the model out, and
fields that it takes and ignores. Here a request reaches a handler only after `requests` has read it.
"""

import json
import uuid
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerationState

from leanpipe.models.count import FACTORED
from leanpipe.serving import answers, requests

_CUTS = ("top_k", "min_p")
"""How an answer is drawn, in fields that transformers' handlers do not know."""
_UNKNOWN = (*_CUTS, "ignore_eos")


class _Sampling:
    """Reads temperature and top_p as OpenAI does: above 0 the answer is drawn, whatever the model's own habit."""

    def _validate_request(self, body: dict[str, Any]) -> None:
        known = {name: value for name, value in body.items() if name not in _UNKNOWN}
        super()._validate_request(known)  # type: ignore[misc]

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
        if config.do_sample:
            for name in _CUTS:
                setattr(config, name, body.get(name, getattr(config, name)))
        if body.get("ignore_eos"):
            config.eos_token_id = None
        if body.get("logit_bias") is not None:  # text completions forget it
            config.sequence_bias = {(int(token),): float(bias) for token, bias in body["logit_bias"].items()}
        return config


class _Chat(_Sampling, ChatCompletionHandler):
    pass


class _Completion(_Sampling, CompletionHandler):
    pass


class _Models(ModelManager):
    """Loads classes of ours too (see `leanpipe.models.factored`), which transformers knows by its auto classes alone."""

    def _load_model(self, model_id_and_revision: str, *args: Any, **kwargs: Any) -> Any:
        name, revision = model_id_and_revision.split("@", 1)
        own: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(name, **own)
        if not config.model_type.startswith(FACTORED):
            return super()._load_model(model_id_and_revision, *args, **kwargs)
        where: dict[str, Any] = {"dtype": self.dtype, "device_map": self.device}
        return AutoModelForCausalLM.from_pretrained(name, **own, **where)


class TransformersEngine:
    """The model that is called `name` in the hub cache, loaded for good."""

    def __init__(self, name: str, device: str, dtype: str):
        manager = _Models(device=device, dtype=dtype, force_model=name)
        state = GenerationState()
        self._chat, self._completion = _Chat(manager, state), _Completion(manager, state)

    async def answer(self, request: requests.Request) -> Response:
        """Answer a request that was read, whole or as a stream."""
        handler = self._chat if request.chat else self._completion
        fields = request.fields | {"stream": request.stream}
        answer = await handler.handle_request(fields, uuid.uuid4().hex)
        if isinstance(answer, StreamingResponse):
            return StreamingResponse(
                answers.finish_stream(answer.body_iterator, request), media_type="text/event-stream"
            )
        return JSONResponse(answers.finish(json.loads(answer.body), request), status_code=answer.status_code)
