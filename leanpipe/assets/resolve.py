"""From what a person wrote (a name, a path, a hub id) to files on this machine and their digest."""

from collections.abc import Callable, Mapping
from pathlib import Path

from leanpipe.assets import samples
from leanpipe.assets.gguf import ImportGgufConfig, import_gguf
from leanpipe.assets.packages import fetch
from leanpipe.assets.tiny import train_tiny
from leanpipe.errors import UserError
from leanpipe.home import Home
from leanpipe.stage import Runner
from leanpipe.store import Artifact, external

CORPORA = {"sample": samples.web_and_wikipedia, "python-topics": samples.python_topics}
INSTRUCTIONS = {"alpaca-sample": samples.alpaca, "python-docstrings": samples.python_docstrings}
MODELS = ("smollm2-135m-instruct", "tiny")


def resolve_corpus(references: tuple[str, ...], home: Home) -> tuple[Artifact, ...]:
    """The folders and files of a corpus. Raises UserError if one does not exist or there is none to read."""
    from leanpipe.text.clean import check_corpus

    artifacts = [_text(reference, CORPORA, "corpus", home) for reference in references]
    check_corpus(tuple(path for _, path in artifacts))
    return tuple(external(reference, path) for reference, path in artifacts)


def resolve_instructions(reference: str, home: Home) -> Artifact:
    """The file or folder of instructions. Raises UserError if it does not exist."""
    return external(*_text(reference, INSTRUCTIONS, "instructions", home))


def resolve_model(reference: str, home: Home, run: Runner) -> Artifact:
    """A model folder: a named one, a folder, a GGUF file or a hub id. Raises UserError if it is none of these.

    `run` runs a stage: some models are made or converted when they are first asked for.
    """
    if reference == "tiny":
        return train_tiny(home, run)
    if reference == "smollm2-135m-instruct":
        return _import(next(iter(fetch(samples.SMOLLM2, home.assets / "smollm2").values())), reference, run)
    path = Path(reference).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _import(path, reference, run)
    if (path / "config.json").is_file():
        return external(reference, path)
    if path.exists():
        raise UserError(f"{reference} is no model: give a folder with a config.json, or a .gguf file")
    return external(reference, _from_hub(reference))


def _import(gguf: Path, reference: str, run: Runner) -> Artifact:
    imported = run(import_gguf, ImportGgufConfig(), {"gguf": external(gguf.name, gguf)})
    return imported.model_copy(update={"name": reference})


def _text(
    reference: str, named: Mapping[str, Callable[[Path], Path]], field: str, home: Home
) -> tuple[str, Path]:
    if reference in named:
        return reference, named[reference](home.assets)
    path = Path(reference).expanduser()
    if not path.exists():
        raise UserError(
            f"{field}: {reference} does not exist; give a folder, a file, or one of {', '.join(named)}"
        )
    return reference, path


def _from_hub(reference: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(reference, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model {reference}: it is no folder, no .gguf file, none of {', '.join(MODELS)}, and no hub model that can "
            "be reached from here; check the spelling, or give a local path"
        ) from error
