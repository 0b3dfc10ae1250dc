"""A real server of each engine for all tests that ask it something: a tiny model that reads few tokens, in 4 bits."""

import json
import socket

import openai
import pytest

from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, quantize
from leanpipe.core.report import Silent
from leanpipe.serving.engine_choice import Way
from leanpipe.serving.serve import running_server
from tests.support.tiny_models import tiny_model

CONTEXT = 256


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(
    scope="session", params=["nf4", "q4_0", "openvino"], ids=["transformers", "llama.cpp", "openvino"]
)
def form(request):
    if request.param == "openvino":
        pytest.importorskip("openvino_genai")
    return request.param


@pytest.fixture(scope="session")
def model(form, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantised")
    source = tiny_model(tmp_path_factory.mktemp("source"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    kind = "q4_0" if form == "openvino" else form
    quantize.function(QuantizeConfig(formats=(kind,)), QuantizeInputs(source), out, Silent())
    return out / kind


@pytest.fixture(scope="session")
def url(model, form):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    way = Way(gguf="openvino") if form == "openvino" else Way()
    with running_server(model, port=port, way=way) as (url, _):
        yield url


@pytest.fixture
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
