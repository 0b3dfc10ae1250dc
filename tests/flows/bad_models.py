"""Model folders with one fault each."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.flows.bad_shapes import spoil_weights, write_other_class
from tests.support.tiny_models import tiny_model


def write_bad_models(folder: Path) -> None:
    """Write a good model, and copies of it with one fault each."""
    good = tiny_model(folder / "good")
    for name, spoil in _SPOILED.items():
        shutil.copytree(good, folder / name)
        spoil(folder / name)
    write_other_class(folder / "gpt2", good)
    (folder / "empty").mkdir()
    (folder / "none.gguf").write_bytes(b"nothing of the kind" * 9)


def _config(**changed: Any) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changed))

    return spoil


def _file(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


class _Program:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return print, ("it ran",)


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Program()))


def _cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1_000])


_SPOILED: dict[str, Callable[[Path], object]] = {
    "cut-off": _cut_off,
    "cut-in-header": _file("model.safetensors", b"\x90\x00\x00\x00\x00\x00\x00\x00{"),
    "no-weights": lambda folder: (folder / "model.safetensors").unlink(),
    "pickle": _pickled,
    "no-tokenizer": lambda folder: [
        (folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")
    ],
    "list-tokenizer": _file("tokenizer.json", b"[]"),
    "list-tokenizer-config": _file("tokenizer_config.json", b"[]"),
    "template": _file("chat_template.jinja", b"{% for"),
    "broken-config": _file("config.json", b"{"),
    "binary-config": _file("config.json", b"\xff\xfe\x00"),
    "deep-config": _file("config.json", b"[" * 100_000),
    "text-size": _config(hidden_size="many"),
    "no-layers": _config(num_hidden_layers=0),
    "heads": _config(num_attention_heads=7),
    "other-shape": _config(hidden_size=128),
    "more-layers": _config(num_hidden_layers=3),
    "unheard-of": _config(model_type="unheard-of"),
    "not-numbers": spoil_weights,
}
