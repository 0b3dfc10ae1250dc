"""Licence and base models in the metadata of a GGUF file, as llama.cpp's converter writes them, and in that of an ONNX file.

The keys are GGUF's own: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#general-metadata.
"""

import re
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from leanpipe.models.card import Told, texts

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

_HUB = "https://huggingface.co/"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LICENCE = {
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
}
_BASE = "base_model"
_NOT_TOLD = ("general.architecture", "general.type", "general.alignment")
"""Texts about a file that are about how it is written, not about the model."""


def licence_metadata(told: Told) -> dict[str, str]:
    """Return licence and base models as texts by GGUF's keys, for the metadata of any file."""
    keys = _LICENCE | {_BASE: "general.base_model"}
    return {keys[name]: ", ".join(texts(value)) for name, value in told.items()}


def write_gguf_licence(writer: "GGUFWriter", told: Told) -> None:
    """Write licence and base models to a GGUF file; nothing where nothing is known."""
    metadata = licence_metadata(told)
    for key in _LICENCE.values():
        if key in metadata:
            writer.add_string(key, metadata[key])
    bases = texts(told.get(_BASE))
    if bases:
        writer.add_base_model_count(len(bases))
    for number, base in enumerate(bases):
        writer.add_base_model_name(number, base.rstrip("/").rpartition("/")[2])
        if _HUB_ID.fullmatch(base):
            writer.add_base_model_organization(number, base.partition("/")[0])
            writer.add_base_model_repo_url(number, _HUB + base)
        elif "://" in base:
            writer.add_base_model_repo_url(number, base)


def read_gguf_licence(reader: "GGUFReader") -> Told:
    """Read licence and base models off a GGUF file: what it says, and nothing else.

    A base model that has a name and no address is no base model on the hub, and is left out.
    """
    said = gguf_texts(reader)
    told: Told = {name: said[key] for name, key in _LICENCE.items() if key in said}
    bases = list(dict.fromkeys(_base_models(reader, said)))
    if bases:
        told[_BASE] = bases[0] if len(bases) == 1 else bases
    return told


def gguf_texts(reader: "GGUFReader") -> dict[str, str]:
    """Return all that a GGUF file says of its model in words, by its keys."""
    found = {}
    for key, field in reader.fields.items():
        if not key.startswith("general.") or key in _NOT_TOLD:
            continue
        several = texts(_contents(field))
        if several:
            found[key] = ", ".join(several)
    return found


def _contents(field: Any) -> object:
    try:
        return field.contents()
    except UnicodeDecodeError:  # no words
        return None


def _base_models(reader: "GGUFReader", said: Mapping[str, str]) -> list[str]:
    """Hub ids, or addresses elsewhere."""
    found: list[str] = []
    for number in count():
        prefix = f"general.base_model.{number}."
        if not any(key.startswith(prefix) for key in reader.fields):
            return found
        address = said.get(f"{prefix}repo_url", "")
        name = address.removeprefix(_HUB).strip("/")
        if address:
            found.append(name if _HUB_ID.fullmatch(name) else address)
    return found
