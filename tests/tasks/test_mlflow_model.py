"""Registered versions are MLflow models: loaded by MLflow's own loaders, in a fresh process, from a real server."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, quantize
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.report import Silent
from leanpipe.core.store import external
from leanpipe.engines.open_engine import open_engine
from leanpipe.processes.servers import wait_until_ready
from tasks.run import Run
from tasks.tracking import registry
from tasks.tracking.mlflow_model import description
from tasks.tracking.runs import Tracking
from tasks.tracking.versions import Version
from tests.flows.servers import free_port
from tests.support.tiny_models import tiny_model, tiny_tokenizer

PROMPT = "A list is a"
LOAD = """
import json, sys
import mlflow
from transformers import AutoModelForCausalLM, AutoTokenizer

def directly(folder):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = tokenizer(prompt, return_tensors="pt")
    return tokenizer.decode(model.generate(**given, do_sample=False, max_new_tokens=8)[0], skip_special_tokens=True)

prompt, *pairs = sys.argv[1:]
said = []
for uri, folder in zip(pairs[::2], pairs[1::2]):
    pyfunc = mlflow.pyfunc.load_model(uri)
    pipeline = mlflow.transformers.load_model(uri)
    texts = {
        "pyfunc": pyfunc.predict([prompt], params={"max_new_tokens": 8})[0],
        "transformers": pipeline(prompt, do_sample=False, max_new_tokens=8)[0]["generated_text"],
        "directly": directly(folder),
        "kind": type(pipeline.model).__name__,
        "example": pyfunc.input_example,
        "signature": pyfunc.metadata.signature.to_dict(),
    }
    said.append(texts)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """A run of a server that keeps artifacts where only it can read them, as in containers."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stored = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/files",
    ]
    quiet = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"
    }  # five processes that do nothing here
    server = subprocess.Popen([sys.executable, "-m", "mlflow", "server", *options, *stored], env=quiet)
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health", lambda: None, 120)
        home = Home(tmp_path_factory.mktemp("home"))
        tracking = Tracking(home)
        with tracking.run("run", {"leanpipe.flow_run": "one"}, {}) as run_id:
            yield Run(home, tracking, run_id)
    finally:
        patch.undo()
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def register(run: Run, folder: Path, name: str) -> Version:
    model = external(folder.name, folder)
    candidate = registry.Candidate(name, model, {"bits_per_byte": 1.0}, "# card", "the smallest")
    version = registry.register.fn(run, name, candidate)
    run.tracking.client.set_registered_model_alias(name, "champion", version.version)
    return version


def loaded(*pairs: str | Path) -> list[dict]:
    """What MLflow's loaders say in a process that knows nothing of leanpipe and where no hub would answer."""
    command = [sys.executable, "-c", LOAD, PROMPT, *map(str, pairs)]
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_version_is_loaded_by_mlflow_s_own_loaders_and_says_the_same(run: Run, model: Path, tmp_path: Path):
    """Of a model in full precision, and of one in 4 bits."""
    quantize.function(QuantizeConfig(formats=("nf4",)), QuantizeInputs(model), tmp_path, Silent())
    register(run, model, "whole")
    register(run, tmp_path / "nf4", "nf4")
    whole, nf4 = loaded("models:/whole@champion", model, "models:/nf4@champion", tmp_path / "nf4")
    for one in (whole, nf4):
        assert one["pyfunc"] == one["transformers"] == one["directly"]
        assert one["directly"].startswith(PROMPT) and len(one["directly"]) > len(PROMPT)
        assert one["kind"] == "LlamaForCausalLM" and one["example"]
        assert "max_new_tokens" in one["signature"]["params"]
    assert (
        whole["directly"] != "" and registry.model_folder("nf4", "champion").joinpath("config.json").exists()
    )


def test_a_version_in_gguf_or_onnx_is_loaded_by_mlflow_as_a_python_function(
    run: Run, model: Path, tmp_path: Path
):
    quantize.function(QuantizeConfig(formats=("q8_0", "onnx")), QuantizeInputs(model), tmp_path, Silent())
    register(run, tmp_path / "q8_0", "gguf")
    register(run, tmp_path / "onnx", "onnx")
    script = """
import sys, mlflow, pandas
said = []
for name in ("gguf", "onnx"):
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    ask = lambda given: loaded.predict(given, params={"max_new_tokens": 8})
    said += [*ask([sys.argv[1]]), *ask(pandas.DataFrame({"text": [sys.argv[1]]}))]
print(said)
"""
    done = subprocess.run([sys.executable, "-c", script, PROMPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = ast.literal_eval(done.stdout.splitlines()[-1])
    tokens = tiny_tokenizer()(PROMPT)["input_ids"]
    asked = {"prompt": tokens, "n_predict": 8, "temperature": 0.0, "repeat_penalty": 1.0}
    for form, two in (("q8_0", said[:2]), ("onnx", said[2:])):
        wanted = PROMPT + open_engine(tmp_path / form, 64).complete(asked)["choices"][0]["text"]
        assert two == [wanted] * 2 and len(wanted) > len(PROMPT)


def test_a_version_is_the_model_s_own_files_and_little_else(run: Run, model: Path):
    """No weights twice, no pickle, no code; and a champion's folder is a model folder, as it was."""
    register(run, model, "files")
    folder = registry.model_folder("files", "champion")
    for file in model.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    added = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    added -= {file.name for file in model.iterdir()}
    assert {"MLmodel", "README.md", "requirements.txt", "input_example.json"} <= added
    assert not [name for name in added if name.endswith((".safetensors", ".pkl", ".bin", ".py"))]
    requirements = (folder / "requirements.txt").read_text()
    assert "transformers==" in requirements and "+" not in requirements


def with_code(model: Path, folder: Path, architecture: str) -> Path:
    """A copy of the model that brings code, which leaves a mark where it runs."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_x.XConfig", "AutoModelForCausalLM": f"modeling_x.{architecture}"}
    (folder / "config.json").write_text(
        json.dumps(config | {"auto_map": names, "architectures": [architecture]})
    )
    mark = f"open({str(folder.parent / 'mark')!r}, 'w').close()\n"
    classes = "from transformers import LlamaConfig as XConfig, LlamaForCausalLM\n"
    own = f"class {architecture}(LlamaForCausalLM): ...\n"
    (folder / "modeling_x.py").write_text(mark + classes + own)
    return folder


def test_code_that_a_model_brings_is_never_run(run: Run, model: Path, tmp_path: Path):
    """Of an architecture that transformers has, its own class is loaded; another one is refused, and no version made."""
    known = with_code(model, tmp_path / "known", "LlamaForCausalLM")
    register(run, known, "known")
    assert loaded("models:/known@champion", model)[0]["kind"] == "LlamaForCausalLM"
    unknown = with_code(model, tmp_path / "unknown", "XForCausalLM")
    with pytest.raises(UserError, match="such code is never run"):
        register(run, unknown, "unknown")
    assert not MlflowClient().search_model_versions("name = 'unknown'")
    assert not (tmp_path / "mark").exists()


def test_a_long_card_is_cut_where_a_line_ends_and_begins_with_its_text():
    card = "---\nlicense: mit\n---\n# Card\n" + "a line of an answer\n" * 600
    shown = description(card)
    assert shown.startswith("# Card") and len(shown) <= 5000
    assert shown.endswith("a line of an answer\n\nThe whole card is README.md among the version's files.\n")
    assert description("# Card\n") == "# Card\n"


def test_a_version_that_was_made_before_is_still_found(run: Run, model: Path):
    """Its files lie among its run's artifacts, and it is no MLflow model."""
    client = run.tracking.client
    client.log_artifacts(run.mlflow_run, str(model), "model/old")
    source = f"{client.get_run(run.mlflow_run).info.artifact_uri}/model/old"
    client.create_registered_model("old")
    version = client.create_model_version("old", source, run.mlflow_run, tags={registry.DIGEST: "d"})
    client.set_registered_model_alias("old", "champion", version.version)
    found = registry.model_of("old", "1")
    assert found and (found.path / "config.json").exists() and found.digest == "d"
    assert Path(download_artifacts("models:/old@champion"), "config.json").exists()
