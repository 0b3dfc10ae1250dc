"""Check requests of OpenAI's API before a model sees them: each documented field is honoured, or refused by name.

https://platform.openai.com/docs/api-reference/chat/create and .../completions/create, as of 2026.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_ANSWER = 1_024
"""Tokens of an answer where the request names no number, if the model can read so many."""
_TEMPLATE = {"sanitize_control_tokens": True}
"""What a message spells is text: it must not end a turn, or begin one as another role."""
_MAX_STOPS = 4
_ROLES = ("system", "developer", "user", "assistant", "tool")


class BadRequest(Exception):
    """A request that cannot be answered as it is asked; `field` is where."""

    def __init__(self, message: str, field: str | None = None, code: str | None = None):
        super().__init__(message)
        self.field = field
        self.code = code

    def body(self) -> dict[str, Any]:
        """Return the answer in OpenAI's shape."""
        said = {"message": str(self), "type": "invalid_request_error", "param": self.field, "code": self.code}
        return {"error": said}


@dataclass(frozen=True)
class Served:
    """The model that answers: its name, its tokenizer, and how many tokens it reads (None: any number)."""

    name: str
    tokenizer: "PreTrainedTokenizerBase"
    context: int | None
    tools: bool = True
    """Whether calls of tools are found in its answers."""


@dataclass(frozen=True)
class Request:
    """A request that can be answered: the fields that the engine is given, and what is done with its answer."""

    fields: dict[str, Any]
    stops: list[str]
    stream: bool
    usage: bool
    """Whether a stream ends with a part that counts the tokens."""
    chat: bool = False
    """Whether it came as messages."""
    tokens: tuple[int, ...] = ()
    """What the model reads, its template and its BOS included."""


def read_chat(body: Any, served: Served) -> Request:
    """Check a request to /v1/chat/completions. Raises BadRequest."""
    request = _read(body, _COMMON | _CHAT, served)
    messages = _messages(body.get("messages"))
    request.fields["messages"] = messages
    tools = request.fields.get("tools")
    if tools and not served.tools:
        raise BadRequest(
            "this server finds no calls of tools in the answers of a GGUF or ONNX model: leave tools out",
            "tools",
            "unsupported_parameter",
        )
    _check_template(served.tokenizer)
    options = request.fields.get("chat_template_kwargs", {}) | _TEMPLATE
    request.fields["chat_template_kwargs"] = options
    prompt = _rendered(messages, tools, options, served.tokenizer)
    wanted = body.get("max_completion_tokens") or body.get("max_tokens")
    name = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
    request.fields["max_tokens"] = _room(len(prompt), wanted, name, "messages", served)
    request.fields.pop("max_completion_tokens", None)
    return replace(request, chat=True, tokens=tuple(prompt))


def read_completion(body: Any, served: Served) -> Request:
    """Check a request to /v1/completions. Raises BadRequest."""
    request = _read(body, _COMMON | _COMPLETION, served)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise BadRequest("prompt must be one text that is not empty", "prompt")
    request.fields["prompt"] = prompt
    tokens = served.tokenizer(prompt)["input_ids"]
    request.fields["max_tokens"] = _room(len(tokens), body.get("max_tokens"), "max_tokens", "prompt", served)
    return replace(request, tokens=tuple(tokens))


Check = Callable[[Any, str], Any]
"""Takes what a request says in a field, and the field's name; returns what the engine is given. Raises BadRequest."""


def _read(body: Any, known: Mapping[str, Check], served: Served) -> Request:
    if not isinstance(body, dict):
        raise BadRequest("the request must be a JSON object")
    unknown = [name for name in body if name not in known]
    if unknown:
        raise BadRequest(f"this server knows no field {unknown[0]}", unknown[0], "unknown_parameter")
    if body.get("model") not in (None, served.name):
        raise BadRequest(
            f"this server answers as the model {served.name}, not as {body['model']}",
            "model",
            "model_not_found",
        )
    given = {name: check(body[name], name) for name, check in known.items() if body.get(name) is not None}
    stream, options = bool(given.pop("stream", False)), given.pop("stream_options", None)
    if options is not None and not stream:
        raise BadRequest("stream_options goes with stream: true", "stream_options")
    stops = given.pop("stop", [])
    fields = {name: value for name, value in given.items() if value is not None} | {"model": served.name}
    if stops:
        fields["stop"] = stops
    return Request(fields, stops, stream, bool(options))


def _number(least: float, most: float) -> Check:
    def check(value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise BadRequest(f"{name} must be a number from {least} to {most}", name)
        return value

    return check


def _integer(least: int, most: int = 2**63 - 1) -> Check:
    def check(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BadRequest(f"{name} must be a whole number of at least {least}", name)
        return value

    return check


def _only(*allowed: Any) -> Check:
    """Refuse anything that would change the answer in a way that this server does not know."""

    def check(value: Any, name: str) -> None:
        if not any(value == one and type(value) is type(one) for one in allowed):
            listed = " or ".join(str(one).lower() if isinstance(one, bool) else repr(one) for one in allowed)
            raise BadRequest(f"this server knows {name} only as {listed}", name, "unsupported_value")

    return check


def _never(value: Any, name: str) -> None:
    raise BadRequest(f"this server does not know {name}: leave it out", name, "unsupported_parameter")


def _label(value: Any, name: str) -> None:
    """A note of the client's, which changes no answer."""


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false", name)
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object", name)
    return value


def _stops(value: Any, name: str) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > _MAX_STOPS
        or not all(isinstance(s, str) and s for s in stops)
    ):
        raise BadRequest(f"{name} must be a text, or at most {_MAX_STOPS} of them, none of them empty", name)
    return stops


def _stream_options(value: Any, name: str) -> bool:
    unknown = set(_object(value, name)) - {"include_usage"}
    if unknown:
        raise BadRequest(f"this server knows no {name}.{min(unknown)}", f"{name}.{min(unknown)}")
    return _flag(value.get("include_usage", False), f"{name}.include_usage")


def _logit_bias(value: Any, name: str) -> dict[str, float] | None:
    biases = _object(value, name)
    for token, bias in biases.items():
        if not str(token).isdecimal():
            raise BadRequest(f"{name} names tokens by their numbers, not {token!r}", name)
        _number(-100, 100)(bias, name)
    return biases or None


def _tools(value: Any, name: str) -> list[dict[str, Any]] | None:
    tools: list[Any] = value if isinstance(value, list) else [None]
    if not all(isinstance(tool, dict) and isinstance(tool.get("function"), dict) for tool in tools):
        raise BadRequest(f'{name} must be a list of {{"type": "function", "function": {{...}}}}', name)
    return tools or None


def _format(value: Any, name: str) -> None:
    if _object(value, name) != {"type": "text"}:
        raise BadRequest(f'this server knows {name} only as {{"type": "text"}}', name, "unsupported_value")


def _given(value: Any, name: str) -> Any:
    """Checked where the whole request is known."""
    return value


_COMMON: dict[str, Check] = {
    "model": _label,
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    # Not OpenAI's: vLLM and llama.cpp know them by these names.
    "top_k": _integer(0),
    "min_p": _number(0, 1),
    "ignore_eos": _flag,
    "seed": _integer(-(2**63)),
    "stop": _stops,
    "stream": _flag,
    "stream_options": _stream_options,
    "max_tokens": _integer(1),
    "n": _only(1),
    "frequency_penalty": _only(0, 0.0),
    "presence_penalty": _only(0, 0.0),
    "logit_bias": _logit_bias,
    "user": _label,
}
_CHAT: dict[str, Check] = {
    "messages": _given,
    "max_completion_tokens": _integer(1),
    "tools": _tools,
    "tool_choice": _only("auto"),
    "parallel_tool_calls": _only(True),
    "response_format": _format,
    "logprobs": _only(False),
    "store": _only(False),
    "service_tier": _only("auto", "default"),
    "chat_template_kwargs": _object,
    "metadata": _label,
    "safety_identifier": _label,
    "prompt_cache_key": _label,
    "modalities": _only(["text"]),
    **dict.fromkeys(
        (
            "top_logprobs",
            "reasoning_effort",
            "verbosity",
            "audio",
            "prediction",
            "function_call",
            "functions",
            "web_search_options",
        ),
        _never,
    ),
}
_COMPLETION: dict[str, Check] = {
    "prompt": _given,
    "best_of": _only(1),
    "echo": _only(False),
    "logprobs": _never,
    "suffix": _never,
}


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise BadRequest("messages must be a list of at least one message", "messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(value)]


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise BadRequest(f"{place} must have a role, one of {', '.join(_ROLES)}", f"{place}.role")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, f"{place}.content[{index}]") for index, part in enumerate(content))
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise BadRequest(f"{place}.content must be a text, or a list of parts of text", f"{place}.content")
    role = "system" if message["role"] == "developer" else message["role"]
    return message | {"role": role, "content": content}


def _part(part: Any, place: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise BadRequest(f"{place} must be {{'type': 'text', 'text': ...}}: this model reads text alone", place)


def _check_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    if not tokenizer.chat_template:
        raise BadRequest("this model has no chat template: ask /v1/completions", "messages")


def _rendered(
    messages: list[dict[str, Any]], tools: Any, options: dict[str, Any], tokenizer: "PreTrainedTokenizerBase"
) -> list[int]:
    """The tokens that the engine makes of the messages."""
    from jinja2 import TemplateError

    try:
        encoded = tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=True, **options
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise BadRequest(f"the model's chat template refuses these messages: {said}", "messages") from error
    return encoded["input_ids"]


def _room(prompt: int, wanted: int | None, name: str, place: str, served: Served) -> int:
    """How many tokens the answer may have. Raises BadRequest if prompt and answer are more than the model reads."""
    if prompt == 0:
        raise BadRequest(f"{place} holds no token", place)
    if served.context is None:
        return wanted or MAX_ANSWER
    if prompt >= served.context or (wanted and prompt + wanted > served.context):
        asked = f", and {name} asks for {wanted} more" if wanted else ""
        raise BadRequest(
            f"this model's maximum context length is {served.context} tokens, but {place} has {prompt}{asked}: shorten one",
            place if prompt >= served.context else name,
            "context_length_exceeded",
        )
    return wanted or min(MAX_ANSWER, served.context - prompt)
