"""Small corpora, cleaned as a flow does it: beside what the store already holds."""

from pathlib import Path

from leanpipe.core.report import Silent
from leanpipe.core.store import Artifact, Store
from leanpipe.corpus.clean import CleanConfig, clean
from leanpipe.processes.run_stage import run_stage
from tests.support.file_indexes import listed
from tests.support.tiny_models import tiny_text

_LENIENT = {"quality": {"enabled": False}, "repetition": {"enabled": False}, "execution": {"workers": 1}}


def write_corpus(folder: Path, end: str = "", first: int = 0, last: int = 30) -> Path:
    """Write a file for each of some of the tiny texts, each with `end` behind it."""
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(tiny_text()[first:last], first):
        (folder / f"{number:03}.txt").write_text(f"{text}\n\n{end}")
    return folder


def cleaned(corpus: Path, root: Path, config: CleanConfig | None = None) -> Artifact:
    """The corpus, cleaned with these settings but for the rules of quality, which are off."""
    config = config or CleanConfig()
    config = CleanConfig.model_validate(config.model_dump(exclude=set(_LENIENT)) | _LENIENT)
    store, inputs = Store(root / "store"), {"corpus": (listed(corpus, root / "listings"),)}
    return run_stage(clean, config, inputs, store, Silent())
