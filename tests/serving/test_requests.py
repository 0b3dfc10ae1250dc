"""Every documented field of OpenAI's API, sent through its client to a real server: honoured, or refused by name."""

import json
import re
import urllib.error
import urllib.request

import openai
import pytest

from leanpipe.serving.answers import Stopping
from tests.serving.conftest import CONTEXT
from tests.support.tiny_models import tiny_tokenizer

TURNS = [{"role": "user", "content": "What is a list?"}]


def chat(client, **fields):
    asked = {"model": "leanpipe", "messages": TURNS, "max_tokens": 12, **fields}
    return client.chat.completions.create(
        **{name: value for name, value in asked.items() if value is not ...}
    )


def text(client, **fields):
    return client.completions.create(
        **{"model": "leanpipe", "prompt": "A list is", "max_tokens": 12, **fields}
    )


def said(answer) -> str:
    return answer.choices[0].message.content


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 1.5, "top_p": 0.9, "seed": 3},
        {"n": 1},
        {"stop": []},
        {"stop": None},
        {"logit_bias": {}},
        {"frequency_penalty": 0, "presence_penalty": 0},
        {"logprobs": False},
        {"response_format": {"type": "text"}},
        {"tools": []},
        {"user": "me", "metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "y"},
        {"store": False, "service_tier": "auto", "modalities": ["text"]},
        {"max_tokens": ..., "max_completion_tokens": 12},
        {"max_tokens": ...},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is a list?"}]}]},
        {"messages": [{"role": "developer", "content": "Be brief."}, *TURNS]},
    ],
    ids=str,
)
def test_what_a_chat_may_ask_for_is_answered(client, fields):
    answer = chat(client, **fields)
    assert len(answer.choices) == 1 and answer.usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
            "messages[0].content[0]",
        ),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"extra_body": {"top_k": -1}}, "top_k"),
        ({"extra_body": {"min_p": 1.5}}, "min_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 500}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": "add"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"functions": [{"name": "add"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"prediction": {"type": "content", "content": "a"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"generation_config": "{}"}}, "generation_config"),
        ({"model": "/etc"}, "model"),
        ({"messages": [{"role": "user", "content": "word " * 2_000}]}, "messages"),
        ({"max_tokens": CONTEXT}, "max_tokens"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_a_chat_may_not_ask_for_is_refused_by_name(client, fields, named):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, **fields)
    assert refused.value.body["param"] == named
    assert named.split("[")[0].split(".")[0] in refused.value.body["message"]


def test_tools_are_taken_where_calls_of_them_are_found(client, form):
    fields = {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True}
    if form == "nf4":
        assert chat(client, **fields).usage.completion_tokens > 0
        return
    with pytest.raises(openai.BadRequestError, match="leave tools out") as refused:
        chat(client, **fields)
    assert refused.value.body["param"] == "tools"


def test_a_prompt_that_is_too_long_is_refused_as_openai_does(client):
    with pytest.raises(openai.BadRequestError, match="maximum context length is 256 tokens") as refused:
        text(client, prompt="word " * 2_000)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"logprobs": 3}, "logprobs"),
        ({"suffix": "."}, "suffix"),
        ({"n": 2}, "n"),
        ({"presence_penalty": 1}, "presence_penalty"),
    ],
    ids=str,
)
def test_what_a_completion_may_not_ask_for_is_refused_by_name(client, fields, named):
    with pytest.raises(openai.BadRequestError) as refused:
        text(client, **fields)
    assert refused.value.body["param"] == named


def test_the_temperature_is_that_of_the_request(client):
    greedy = {said(chat(client, temperature=0)) for _ in range(3)}
    assert len(greedy) == 1
    drawn = {said(chat(client, temperature=2, seed=seed)) for seed in range(4)}
    assert len(drawn) > 1
    assert said(chat(client, temperature=2, seed=1)) == said(chat(client, temperature=2, seed=1))
    assert len({text(client, temperature=2, seed=seed).choices[0].text for seed in range(4)}) > 1
    assert len({said(chat(client, top_p=0.99, seed=seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"min_p": 1}], ids=str)
def test_what_leaves_one_token_to_draw_from_draws_the_likeliest(client, cut):
    """Not OpenAI's, but of vLLM's and llama.cpp's servers: each engine takes them, and each cuts by them."""
    for ask in (chat, text):
        drawn, cut_down, greedy = (
            ask(client, **fields).choices[0].to_dict()
            for fields in (
                {"temperature": 2, "seed": 1},
                {"temperature": 2, "seed": 1, "extra_body": cut},
                {"temperature": 0},
            )
        )
        assert cut_down == greedy != drawn


def test_a_bias_makes_a_token_certain(client, url):
    for answer in (
        said(chat(client, logit_bias={"300": 100}, temperature=0)),
        text(client, logit_bias={"300": 100}, temperature=0).choices[0].text,
    ):
        word = answer[: len(answer) // 12]
        assert word and answer == word * 12


def test_an_answer_ends_before_the_text_that_stops_it(client):
    """The answer is one word, again and again; what stops it begins in one of them and ends in the next."""
    tokenizer = tiny_tokenizer()
    token = next(n for n in range(len(tokenizer)) if re.fullmatch("[a-z]{2,}", tokenizer.decode([n])))
    word, biased = tokenizer.decode([token]), {"temperature": 0, "logit_bias": {str(token): 100}}
    stop = word[-1] + word[0]
    assert said(chat(client, **biased)) == word * 12
    stopped = chat(client, **biased, stop=stop)
    assert said(stopped) == word[:-1] and stopped.choices[0].finish_reason == "stop"
    parts = list(chat(client, **biased, stop=[stop, "nowhere"], stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == word[:-1]
    assert parts[-1].choices[0].finish_reason == "stop"
    completed = text(client, **biased, stop=[stop]).choices[0]
    assert (completed.text, completed.finish_reason) == (word[:-1], "stop")


def test_a_stream_counts_its_tokens_only_if_asked(client):
    for ask in (chat, text):
        plain = list(ask(client, stream=True))
        assert all(part.usage is None for part in plain)
        counted = list(ask(client, stream=True, stream_options={"include_usage": True}))
        assert counted[-1].choices == [] and 0 < counted[-1].usage.completion_tokens <= 12


def raw(url: str, path: str, body: bytes | None = b"{}") -> tuple[int, bytes]:
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_only_the_documented_routes_are_reachable(url):
    for path in ("/load_model", "/reset", "/v1/responses", "/v1/systemone", "/v1/audio/transcriptions"):
        assert raw(url, path, b'{"model": "/etc"}')[0] == 404
    for path in ("/docs", "/openapi.json"):
        assert raw(url, path, None)[0] == 404
    assert raw(url, "/health", None)[0] == 200


@pytest.mark.parametrize(
    "body", [b"no json", b"[]", b"5", b"\xff", b'{"messages": [' + b"[" * 5_000 + b"]" * 5_000 + b"]}"]
)
def test_what_is_no_request_is_refused(url, body):
    for path in ("/v1/chat/completions", "/v1/completions"):
        code, answer = raw(url, path, body)
        assert code == 400 and json.loads(answer)["error"]["type"] == "invalid_request_error"


def test_a_stream_ends_as_clients_expect(url):
    body = json.dumps({"messages": TURNS, "max_tokens": 3, "stream": True}).encode()
    assert raw(url, "/v1/chat/completions", body)[1].endswith(b"data: [DONE]\n\n")


def test_text_that_may_begin_a_stop_is_held_back():
    text = Stopping(["###", "END"])
    shown = [text.add(piece, False) for piece in ("a#", "#b", "E", "N", "x", "##", "#c", "d")]
    assert shown == ["a", "##b", "", "", "ENx", "", "", ""] and text.stopped
    assert Stopping(["###"]).add("a##", True) == "a##"
