"""From what a person wrote (a name, a path, a hub id) to files on this machine and their digest."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Thread

from leanpipe.assets import samples
from leanpipe.assets.gguf import ImportGgufConfig, import_gguf
from leanpipe.assets.packages import fetch
from leanpipe.assets.sample_tasks import TASKS
from leanpipe.assets.tiny import train_tiny
from leanpipe.core.allowed_paths import Roots, local_path
from leanpipe.core.errors import UserError
from leanpipe.core.files import expanded
from leanpipe.core.home import Home
from leanpipe.core.stage import Runner
from leanpipe.core.store import Artifact, digest_file, digest_json, external
from leanpipe.corpus.sources.file_index import check_corpus, index_corpus
from leanpipe.corpus.sources.optional_kinds import say_what_needs_extra
from leanpipe.corpus.sources.read_log import ReadLog
from leanpipe.evaluation.task_scores.task_files import data_files
from leanpipe.models.card import CARD, inherited

logger = logging.getLogger(__name__)

CORPORA = {"sample": samples.web_and_wikipedia, "python-topics": samples.python_topics}
INSTRUCTIONS = {"alpaca-sample": samples.alpaca, "python-docstrings": samples.python_docstrings}
HUB_FILES, OTHER_FORMS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", CARD], ["*/*.safetensors"]
"""What is fetched of a model of the hub. Weights lie beside the config: those in folders are other forms of the model."""
MODELS = ("smollm2-135m-instruct", "tiny")


def fetch_ahead(references: Iterable[str | None], home: Home) -> bool:
    """Begin to fetch the text of the samples among `references` beside what this thread does next, and say whether that was needed.

    Whoever asks for one of them afterwards waits for it, and says what went wrong.
    """
    if samples.has_text(home.assets) or not set(samples.FETCHED) & set(references):
        return False

    def fetch_quietly() -> None:
        with contextlib.suppress(Exception):
            samples.fetch_text(home.assets)

    Thread(target=fetch_quietly, name="fetch", daemon=True).start()
    return True


def check_own_corpora(references: tuple[str, ...], home: Home) -> None:
    """Raise UserError if a corpus that is none of the samples does not exist or there is nothing to read in it."""
    for reference in references:
        if reference not in CORPORA:
            place, roots = _place(reference, CORPORA, home)
            check_corpus([place], roots)


def resolve_corpus(
    references: tuple[str, ...], home: Home, warn: Callable[[str], object] = logger.warning
) -> tuple[Artifact, ...]:
    """Listings of the files of each corpus. Raises UserError if one does not exist or there is nothing to read.

    `warn` is told in a sentence what will be passed over for want of a package.
    """
    places = [_place(reference, CORPORA, home) for reference in references]
    for place, roots in places:
        check_corpus([place], roots)
    return tuple(
        _listed(reference, place, roots, home, number, warn)
        for number, (reference, (place, roots)) in enumerate(zip(references, places, strict=True))
    )


def resolve_evaluation_sets(references: tuple[str, ...], home: Home) -> tuple[Artifact, ...]:
    """Files of evaluation sets. Raises UserError if one does not exist."""
    return tuple(external(*_text(reference, {}, "evaluation_sets", home)) for reference in references)


def resolve_tasks(references: tuple[str, ...], home: Home) -> tuple[Artifact, ...]:
    """Files of tasks, each named by its content and that of its items. Raises UserError if one of them does not exist."""
    found = []
    for reference in references:
        name, path = _text(reference, TASKS, "tasks", home)
        if not path.is_file():
            raise UserError(f"tasks: {reference} is no file: give the YAML file of a task")
        items = data_files(path)
        for one in items if reference not in TASKS else ():
            Roots.from_environment().check("tasks", str(one))
        digest = digest_json([digest_file(path), *map(digest_file, items)])
        found.append(Artifact(name=name, path=path.resolve(), digest=digest))
    return tuple(found)


def resolve_instructions(reference: str, home: Home) -> Artifact:
    """The file or folder of instructions. Raises UserError if it does not exist."""
    return external(*_text(reference, INSTRUCTIONS, "instructions", home))


def resolve_prompts(reference: str, home: Home) -> Artifact:
    """The file of prompts. Raises UserError if it does not exist."""
    return external(*_text(reference, {}, "prompt_set", home))


def resolve_model(reference: str, home: Home, run: Runner) -> Artifact:
    """A model folder: a named one, a folder, a GGUF file or a hub id. Raises UserError if it is none of these.

    `run` runs a stage: some models are made or converted when they are first asked for.
    """
    if reference == "tiny":
        return train_tiny(home, run)
    if reference == "smollm2-135m-instruct":
        return _import(next(iter(fetch(samples.SMOLLM2, home.assets / "smollm2").values())), reference, run)
    _check_named("model", reference)
    path = expanded(reference)
    if path.exists():
        Roots.from_environment().check("model", str(path))
    if path.suffix == ".gguf" and path.is_file():
        return _import(path, reference, run)
    if (path / "config.json").is_file():
        return external(reference, path)
    if path.exists():
        raise UserError(f"{reference} is no model: give a folder with a config.json, or a .gguf file")
    folder = _from_hub(reference)
    # Who mends the words of a card changes no model: of it the licence counts, which goes with what is made of the model.
    told = inherited(folder)
    return external(reference, folder, instead={CARD: digest_json(told) if told else ""})


def _import(gguf: Path, reference: str, run: Runner) -> Artifact:
    imported = run(import_gguf, ImportGgufConfig(), {"gguf": external(gguf.name, gguf)})
    return imported.model_copy(update={"name": reference})


def _listed(
    reference: str, place: str, roots: Roots, home: Home, number: int, warn: Callable[[str], object]
) -> Artifact:
    file_index = index_corpus(place, ReadLog(), roots, home.digests, number)
    if sentence := say_what_needs_extra(reference, file_index.skipped):
        warn(f"{sentence}, or go on without")
    return file_index.artifact(reference, home.listings)


def _place(reference: str, named: Mapping[str, Callable[[Path], Path]], home: Home) -> tuple[str, Roots]:
    """Where it lies, and which places are permitted: what we fetched ourselves always is."""
    if reference in named:
        return str(named[reference](home.assets)), Roots()
    _check_named("corpus", reference)
    roots = Roots.from_environment()
    roots.check("corpus", reference)
    path = local_path(reference)
    if path and not _exists(path):
        known = ", ".join(named)
        raise UserError(
            f"corpus: {reference} does not exist; give a folder, a file, a URL, or one of {known}"
        )
    return reference, roots


def _check_named(field: str, reference: str) -> None:
    """Raise UserError for a blank, which as a path would mean the folder where we stand."""
    if not reference.strip():
        raise UserError(
            f"{field}: a blank names nothing; give a folder or a file (. is the one where you stand)"
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name that is too long: said by whoever opens it
        return True


def _text(
    reference: str, named: Mapping[str, Callable[[Path], Path]], field: str, home: Home
) -> tuple[str, Path]:
    if reference in named:
        return reference, named[reference](home.assets)
    _check_named(field, reference)
    path = expanded(reference)
    Roots.from_environment().check(field, str(path))
    if not path.exists():
        known = f", or one of {', '.join(named)}" if named else ""
        raise UserError(f"{field}: {reference} does not exist; give a folder, a file{known}")
    return reference, path


def _from_hub(reference: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(reference, allow_patterns=HUB_FILES, ignore_patterns=OTHER_FORMS))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model {reference}: it is no folder, no .gguf file, none of {', '.join(MODELS)}, and no hub model that can "
            "be reached from here; check the spelling, or give a local path"
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model {reference}: the hub has no safetensors of it, and other weights (.bin are pickles) are not fetched: choose a "
            "model that has them, or download this one and give its folder"
        )
    return folder
