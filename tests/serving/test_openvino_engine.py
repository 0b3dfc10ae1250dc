"""OpenVINO runs the GGUF files that llama.cpp runs: it predicts the same of them, and answers several requests together."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

from leanpipe.compression.gguf_export import GgufTypes, write_gguf
from leanpipe.compression.gguf_types import rounded_weights
from leanpipe.core.errors import UserError
from leanpipe.engines.llama_cpp import LlamaCpp
from leanpipe.engines.open_engine import gguf_engines, open_logits
from leanpipe.engines.openvino_gguf import unreadable
from leanpipe.models.load import save_model
from leanpipe.models.offload import GGUF_FILE
from leanpipe.serving import engine_choice
from leanpipe.serving.engine_choice import Way, candidates, read_way, tokens_per_second
from leanpipe.serving.serve import running_server
from tests.compression.test_gguf_export import FAMILIES, SHAPE, TOKENS, model_of
from tests.support.tiny_models import tiny_tokenizer

pytest.importorskip("openvino_genai")

from leanpipe.engines.openvino_genai import OpenVino

READ = ("llama", "llama with wide heads", "qwen2", "qwen3")


def folder_of(path: Path, family: str = "llama", kind: str = "q8_0", **shape) -> tuple[Path, torch.Tensor]:
    """A model folder whose GGUF file is in a type, and what the weights in the file predict."""
    config = type(FAMILIES[family])(**{**SHAPE, **shape}) if shape else FAMILIES[family]
    model, tokenizer = model_of(config), tiny_tokenizer()
    save_model(model, tokenizer, path, torch.float32)
    plan = write_gguf(model, tokenizer, GgufTypes(kind, kind), path / GGUF_FILE)
    (path / "model.safetensors").unlink()
    with torch.no_grad():
        for one in plan.tensors:
            if len(one.shape) == 2:
                weight = model.get_submodule(one.module).weight
                weight.copy_(rounded_weights(weight.detach(), one.type))
        return path, model(torch.tensor([TOKENS])).logits[0]


@pytest.mark.parametrize("family", READ)
def test_it_predicts_what_the_model_does(family, tmp_path):
    folder, expected = folder_of(tmp_path, family)
    actual = open_logits(folder, len(TOKENS), "openvino")(TOKENS)
    assert 0 < (actual - expected).norm() / expected.norm() < 0.06
    assert (actual.argmax(-1) == expected.argmax(-1)).float().mean() > 0.85


@pytest.mark.parametrize("kind", ["q4_0", "q5_0", "iq4_nl", "q6_k"])
def test_it_reads_every_type_as_it_was_written(kind, tmp_path):
    """Q5_0 and IQ4_NL, which its reader does not know, from another file with the same weights."""
    folder, expected = folder_of(tmp_path, kind=kind, hidden_size=256, num_hidden_layers=1)
    actual = open_logits(folder, len(TOKENS), "openvino")(TOKENS)
    assert (actual - expected).norm() / expected.norm() < 0.03


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return folder_of(tmp_path_factory.mktemp("openvino"))[0]


def test_its_answer_is_llama_cpp_s(folder):
    asked = {"prompt": TOKENS[:20], "max_tokens": 3, "temperature": 0.0, "ignore_eos": True}
    one, other = OpenVino(folder, 256, threads=1), LlamaCpp(folder / GGUF_FILE, 256, threads=1)
    first, second = one.complete(asked), other.complete(asked)
    assert (
        first["choices"][0]["text"] == second["choices"][0]["text"]
        and first["usage"].items() <= second["usage"].items()
    )
    never = {"logit_bias": [[token, -100.0] for token in range(250)]}
    assert one.complete(asked | never)["choices"] == other.complete(asked | never)["choices"]


@pytest.mark.parametrize(
    ("family", "kind", "told"),
    [
        ("gemma3", "q8_0", "of llama, qwen2, qwen3, and this is a gemma3_text"),
        ("llama", "q4_1", "does not read weights in Q4_1"),
    ],
)
def test_what_it_does_not_read_is_left_to_llama_cpp(family, kind, told, tmp_path):
    folder, _ = folder_of(tmp_path, family, kind)
    assert told in unreadable(folder) and gguf_engines(folder) == ("llama.cpp",)
    with pytest.raises(UserError, match=f"--engine openvino: .*{told}; take llama.cpp"):
        read_way(folder, "openvino")
    with pytest.raises(UserError, match=f"cannot be run by OpenVINO: .*{told}"):
        OpenVino(folder, 64)


def test_a_damaged_file_is_refused_in_a_sentence(tmp_path):
    folder, _ = folder_of(tmp_path)
    whole = (folder / GGUF_FILE).read_bytes()
    (folder / GGUF_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.gguf cannot be read as GGUF"):
        OpenVino(folder, 64)


def test_it_is_a_way_that_is_measured_and_may_be_asked_for(folder, monkeypatch):
    for free in (1, 2):
        assert Way(free, gguf="openvino") in candidates(folder, free)
    asked = Way(1, gguf="openvino")
    assert read_way(folder, "openvino, threads=1") == asked and str(asked) == "openvino,threads=1"
    assert read_way(folder, "llama.cpp,threads=1") == Way(1)
    assert tokens_per_second(folder, asked) > 0
    key = engine_choice._key(folder, 1, candidates(folder, 1))
    monkeypatch.setattr(engine_choice, "version", lambda name: "another")
    assert engine_choice._key(folder, 1, candidates(folder, 1)) != key


def test_a_process_that_let_go_of_it_ends_by_a_signal_as_it_should(folder):
    """Its destructor takes away the stack that signals are handled on."""
    script = (
        "import gc, os, signal, sys; from pathlib import Path; from leanpipe.engines.openvino_genai import OpenVino, OpenVinoLogits\n"
        "OpenVino(Path(sys.argv[1]), 64, threads=1); OpenVinoLogits(Path(sys.argv[1]), 1)([5, 6, 7]); gc.collect()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); os.kill(os.getpid(), signal.SIGTERM)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr


def test_the_server_says_which_engine_it_has(folder, free_port):
    with running_server(folder, port=free_port, way=Way(1, gguf="openvino")) as (url, _):
        facts = json.loads(urllib.request.urlopen(f"{url}/health").read())
    assert facts["engine"] == "openvino" and facts["threads"] == 1


def test_where_it_is_not_installed_the_sentence_says_how(folder, tmp_path):
    """In a process that does not find the package, as on a machine without it."""
    (tmp_path / "openvino_genai.py").write_text("raise ImportError('not here')")
    command = [sys.executable, "-m", "flows.cli.main", "serve", str(folder), "--engine", "openvino"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode == 1 and "pip install 'leanpipe[openvino]'" in done.stderr.replace("\n", " ")
