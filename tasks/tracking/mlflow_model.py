"""A model folder as MLflow logs models, so that MLflow's own loaders read it: transformers' flavor, and pyfunc over it.

Of a folder with a GGUF or ONNX file pyfunc alone, by llama.cpp or onnxruntime.

The folder's files stay as they are, and lie where the version points to: whoever reads a version as a model folder, as
serving does, goes on doing so. Beside them lies what MLflow reads. MLflow's own `save_model` would load the weights or
copy them once more, and of a folder fails with transformers 5 (`check_task` names its pipelines by strings there).

No code of a model is ever run: MLflow runs what a folder brings if transformers itself lacks the class that the flavor
names, so a flavor names classes of transformers only, and its weights are safetensors.
"""

import json
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.models.utils import _save_example
from mlflow.pyfunc import add_to_model
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from packaging.version import Version

from leanpipe.core.errors import UserError
from leanpipe.corpus.report.data_card import for_a_page
from leanpipe.models.count import refuse_code
from leanpipe.models.load import load_tokenizer
from leanpipe.models.offload import is_exported, is_gguf

MODEL_FILE = "MLmodel"
"""What MLflow knows of a model lies in this file of its folder."""

_TASK = "text-generation"
_TOKENIZER = "components/tokenizer"  # MLflow's loader looks nowhere else
_PACKAGES = ["mlflow", "transformers", "torch", "accelerate", "safetensors"]
_ENGINE_PACKAGES = ["mlflow", "leanpipe", "transformers"]
_ENGINE_LOADER = "leanpipe.engines.text_generation"
"""GGUF files have no flavor of MLflow's, and its flavor of ONNX knows no text: what reads them is ours, and must be installed where they are loaded."""
_REQUIREMENTS, _PYTHON_ENV = "requirements.txt", "python_env.yaml"
_LONGEST_DESCRIPTION = 5000  # of a version, in characters; PostgreSQL refuses a longer one
_NEW_TOKENS = 64
_EXAMPLE = ["The river rises in the hills to the north and"]


class LoggedFolder(NamedTuple):
    """A model in MLflow's store: its id, and the address of its files."""

    model_id: str
    source: str


def log_model_folder(client: MlflowClient, run_id: str, label: str, folder: Path, card: str) -> LoggedFolder:
    """Log the files of `folder`, its card, and what MLflow's loaders need, as the model `label` that the run has made.

    Raises UserError for a model that cannot be loaded without running code of its own. What transformers cannot load for
    another reason, such as a folder without `config.json`, is logged without a loader.
    """
    experiment = client.get_run(run_id).info.experiment_id
    tags = {MLFLOW_RUN_NOTE: description(card)}
    logged = client.create_logged_model(experiment, label, run_id, tags, model_type=_TASK)
    status = LoggedModelStatus.FAILED
    try:
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, "README.md").write_text(card)
            if _is_loadable(folder):
                described = Model(
                    artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id
                )
                describe_folder(folder, Path(scratch), described)
            client.log_model_artifacts(logged.model_id, str(folder))
            client.log_model_artifacts(logged.model_id, scratch)
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        status = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(logged.model_id, status)
    return LoggedFolder(logged.model_id, logged.model_uri)


def description(card: str) -> str:
    """The card for MLflow's page: without its front matter, which is shown as a headline, and no longer than MLflow keeps."""
    text = for_a_page(card)
    if len(text) <= _LONGEST_DESCRIPTION:
        return text
    rest = "\n\nThe whole card is README.md among the version's files.\n"
    return text[: _LONGEST_DESCRIPTION - len(rest)].rsplit("\n", 1)[0] + rest


def describe_folder(folder: Path, out: Path, described: Model) -> None:
    """Write to `out` what makes an MLflow model of the model folder `folder` when it lies beside its files."""
    config = _config(folder)
    tokenizer = load_tokenizer(folder)
    _check_class(folder, type(tokenizer).__name__)
    tokenizer.save_pretrained(out / _TOKENIZER)
    described.signature = _signature()
    _save_example(described, _EXAMPLE, str(out))
    loader = _ENGINE_LOADER
    packages = [*_ENGINE_PACKAGES, "xllamacpp" if is_gguf(folder) else "onnxruntime"]
    if not is_exported(folder):
        loader = "mlflow.transformers"
        packages = [*_PACKAGES, config.get("quantization_config", {}).get("quant_method", "")]
        described.add_flavor(
            "transformers",
            transformers_version=version("transformers"),
            code=None,
            task=_TASK,
            instance_type="TextGenerationPipeline",
            pipeline_model_type=_architecture(config),
            source_model_name=described.artifact_path,
            model_binary=".",
            tokenizer_type=type(tokenizer).__name__,
            components=["tokenizer"],
        )
    add_to_model(described, loader_module=loader, python_env=_PYTHON_ENV)
    described.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    _write_environment(packages, out)
    described.save(str(out / MODEL_FILE))


def _is_loadable(folder: Path) -> bool:
    """Whether a flavor can say how to load the folder. Raises UserError for one that needs code of its own."""
    if not (folder / "config.json").exists():
        return False
    _check_class(folder, architecture := _architecture(_config(folder)))
    return is_exported(folder) or (bool(architecture) and any(folder.glob("*.safetensors")))


def _check_class(folder: Path, name: str) -> None:
    """Raise UserError unless transformers itself has the class: of another one MLflow would run the folder's code."""
    import transformers

    if name and not hasattr(transformers, name):
        raise UserError(refuse_code(folder))


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def _architecture(config: dict[str, Any]) -> str:
    return (config.get("architectures") or [""])[0]


def _signature() -> ModelSignature:
    """Text in, text out. What is generated is greedy unless asked for otherwise, so that it can be repeated."""
    text = Schema([ColSpec(DataType.string)])
    parameters = [
        ParamSpec("max_new_tokens", DataType.integer, _NEW_TOKENS),
        ParamSpec("do_sample", DataType.boolean, False),
    ]
    return ModelSignature(inputs=text, outputs=text, params=ParamSchema(parameters))


def _write_environment(packages: list[str], out: Path) -> None:
    """List the packages by hand: MLflow would load the model and predict to find them, and some it would guess."""
    pinned = [f"{package}=={installed}" for package in packages if (installed := _installed(package))]
    (out / _REQUIREMENTS).write_text("\n".join(pinned) + "\n")
    environment = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "build_dependencies": ["pip"],
        "dependencies": [f"-r {_REQUIREMENTS}"],
    }
    (out / _PYTHON_ENV).write_text(yaml.safe_dump(environment, sort_keys=False))


def _installed(package: str) -> str | None:
    """The version of a package without what names its build (`2.13.0+cpu`), which no index has; None if it is not here."""
    try:
        return Version(version(package)).public if package else None
    except PackageNotFoundError:
        return None
