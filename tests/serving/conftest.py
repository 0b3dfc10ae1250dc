"""A real server of each engine for all tests that ask it something: a tiny model that reads few tokens, in 4 bits."""

import json
import socket

import openai
import pytest

from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, quantize
from leanpipe.core.report import Silent
from leanpipe.serving.serve import running_server
from tests.support.tiny_models import tiny_model

CONTEXT = 256


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session", params=["nf4", "q4_0"], ids=["transformers", "llama.cpp"])
def form(request):
    return request.param


@pytest.fixture(scope="session")
def model(form, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantised")
    source = tiny_model(tmp_path_factory.mktemp("source"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    quantize.function(QuantizeConfig(formats=(form,)), QuantizeInputs(source), out, Silent())
    return out / form


@pytest.fixture(scope="session")
def url(model):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_server(model, port=port) as (url, _):
        yield url


@pytest.fixture
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
