"""What only llama.cpp's server does: several answers at once, nothing on its own port, nothing on the screen."""

import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import openai
import pytest

from leanpipe.compression.gguf_export import GgufTypes, write_gguf
from leanpipe.core import device
from leanpipe.engines.llama_cpp import LlamaCpp, fitting_threads, free_cores
from leanpipe.engines.other_work import OtherWork, free_beside
from tests.serving.conftest import CONTEXT
from tests.serving.test_requests import TURNS, chat
from tests.support.tiny_models import tiny_llama, tiny_tokenizer

TOGETHER = 20
llama_cpp = pytest.mark.parametrize("form", ["q4_0"], indirect=True)
together = pytest.mark.parametrize("form", ["q4_0", "openvino"], indirect=True)
"""With this engine alone of those that the servers of this folder have, or with those that answer several requests together."""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(tiny_llama(), tiny_tokenizer(), GgufTypes("q4_0", "q8_0"), file)
    return file


@together
def test_more_requests_than_it_remembers_at_once_are_all_answered(client):
    """Twenty, each of which asks for as many tokens as the model can read: together more than there is room for."""
    asked = client.chat.completions.create(model="leanpipe", messages=TURNS, max_tokens=1)
    most = CONTEXT - asked.usage.prompt_tokens

    def answer(_):
        return chat(client, max_tokens=most, temperature=0, extra_body={"ignore_eos": True})

    with ThreadPoolExecutor(TOGETHER) as threads:
        answers = list(threads.map(answer, range(TOGETHER)))
    assert [one.usage.completion_tokens for one in answers] == [most] * TOGETHER
    assert {one.choices[0].finish_reason for one in answers} == {"length"}


@together
def test_streams_that_nobody_reads_any_more_make_room(client, url):
    """Twice as many as are answered at once are left after their first part; the next is answered all the same."""
    for _ in range(16):
        impatient = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with chat(impatient, max_tokens=200, stream=True) as stream:
            next(iter(stream))
        impatient.close()
    assert chat(client, max_tokens=12, timeout=60).usage.completion_tokens > 0


def test_it_may_be_let_go_of_as_soon_as_it_is_loaded(gguf):
    """Its destructor may wait for a connection for ever, and then no signal reaches the process."""
    script = "import sys\nfrom pathlib import Path\nfrom leanpipe.engines.llama_cpp import LlamaCpp\n"
    script += "for _ in range(20):\n    LlamaCpp(Path(sys.argv[1]), 64, threads=1)\n"
    subprocess.run([sys.executable, "-c", script, str(gguf)], check=True, timeout=120)


def test_llama_cpp_s_own_routes_are_closed(gguf):
    engine = LlamaCpp(gguf, 64, threads=1)
    address = engine._now.server.listening_address
    for route in ("/completion", "/embedding", "/tokenize", "/v1/chat/completions"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(urllib.request.Request(address + route, b"{}"))
    assert engine.tokenize("A list")


def test_nothing_is_put_before_token_ids(gguf):
    ids = tiny_tokenizer()("A list is")["input_ids"]
    answer = LlamaCpp(gguf, 64, threads=1).complete({"prompt": ids, "max_tokens": 2, "temperature": 0})
    assert answer["usage"]["prompt_tokens"] == len(ids)


def test_what_llama_cpp_refuses_is_an_error_and_no_empty_answer(gguf):
    engine, asked = LlamaCpp(gguf, 64, threads=1), {"prompt": [5, 6], "max_tokens": 2, "repeat_last_n": -5}
    with pytest.raises(RuntimeError, match="repeat_last_n"):
        engine.complete(asked)
    with pytest.raises(RuntimeError, match="repeat_last_n"):
        engine.complete(asked, lambda part: False)


def test_it_writes_nothing_on_the_screen(gguf):
    script = (
        "import sys; from pathlib import Path; from leanpipe.engines.llama_cpp import LlamaCpp\n"
        "LlamaCpp(Path(sys.argv[1]), 64, threads=1).complete({'prompt': [5, 6, 7], 'max_tokens': 4})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(gguf)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_it_computes_with_the_cores_that_nobody_else_keeps_busy():
    assert 1 <= free_cores() <= device.cores()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(device.cores() + 1)]
    try:
        assert free_cores() == 1
    finally:
        for process in busy:
            process.kill()
            process.wait()


class Seen(NamedTuple):
    """What was seen of other work, as `OtherWork` tells it."""

    free_cores: int


def test_the_threads_of_an_engine_follow_what_others_leave_free(gguf, monkeypatch):
    """Between requests; while one is answered, another joins it where it is. Each number of threads is loaded once."""
    monkeypatch.setattr(device, "cores", lambda: 2)
    engine = LlamaCpp(gguf, 256)
    asked = {"prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    seen, answers = [], []
    for free in (2, 1, 2, 1):
        engine._others = Seen(free)
        answers.append(engine.complete(asked)["choices"][0]["text"])
        seen.append(engine.threads)
    assert seen == [2, 1, 2, 1] and sorted(engine._loaded) == [1, 2]
    assert len(set(answers)) == 1

    def join(part):
        engine._others = Seen(2)
        if not seen[4:]:
            answers.append(engine.complete(asked)["choices"][0]["text"])
            seen.append(engine.threads)
        return False

    engine.complete(asked, join)
    assert seen[4:] == [1] and len(set(answers)) == 1
    assert engine.complete(asked) and engine.threads == 2


def test_a_number_of_threads_that_was_asked_for_stays(gguf):
    assert LlamaCpp(gguf, 64, threads=1)._others is None


def test_what_others_compute_is_told_from_what_this_process_does():
    assert free_beside(2, 0.5, busy=1.0, own=1.0) == 2  # all of it is ours
    assert free_beside(2, 0.5, busy=1.0, own=0.5) == 1
    assert free_beside(2, 0.5, busy=1.0, own=0.0) == 1  # there is always one
    assert free_beside(16, 0.5, busy=2.1, own=0.0) == 12
    assert OtherWork(1).free_cores == 1


@pytest.mark.parametrize(
    ("cores", "free", "loaded", "threads"),
    [
        (2, 2, (), 2),
        (2, 1, (), 1),
        (16, 15, (), 15),
        (16, 14, (), 8),
        (16, 14, (12,), 12),
        (6, 4, (), 3),
        (1, 1, (), 1),
    ],
)
def test_few_numbers_of_threads_are_loaded(cores, free, loaded, threads):
    assert fitting_threads(cores, free, loaded) == threads


_LOAD = """
import sys
from pathlib import Path
from leanpipe.serving.engine import load
load("leanpipe", Path(sys.argv[1]), "cpu", "float32")
sys.stdout.write(str(sorted({"torch", "sympy"} & set(sys.modules))))
sys.stdout.flush()
import os; os._exit(0)
"""


@llama_cpp
def test_its_server_imports_no_torch(model):
    """Which is two thirds of its start, and llama.cpp needs none of it."""
    done = subprocess.run([sys.executable, "-c", _LOAD, str(model)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]", "")
