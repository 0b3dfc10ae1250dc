"""What an exported model says of where it comes from: digests of its weights and of its parents, the licence, the base model."""

import re
from pathlib import Path
from typing import Any

from leanpipe.core.errors import UserError
from leanpipe.core.store import MANIFEST, content_digest, digest_file, read_manifest
from leanpipe.export.gguf_licence import licence_metadata
from leanpipe.models.card import inherited, licence_name, write_card
from leanpipe.models.offload import is_gguf, is_onnx, weight_files

_DIGEST = re.compile(r"[0-9a-f]{64}")
SOURCE = "leanpipe.source_sha256"
"""The digest of the weights that something was made of."""


def provenance(folder: Path) -> dict[str, str]:
    """Name what is known of the model folder that something is made of, for the metadata of an exported file.

    The licence is that of the folder's card, if it has one: none is guessed.
    """
    if not (digest := weights_digest(folder)):
        return {}
    return {"leanpipe.source": folder.name, SOURCE: digest} | licence_metadata(inherited(folder))


def weights_digest(folder: Path) -> str:
    """The SHA-256 over a model folder's files of weights; empty for a model that was never written."""
    try:
        files = weight_files(folder)
    except UserError:
        return ""
    return content_digest({one.name: digest_file(one) for one in files})


def licence(folder: Path) -> str:
    """The name of the licence that the folder's card gives, and where it is written; empty if it gives none."""
    return licence_name(inherited(folder))


def _are_digests(digests: Any) -> bool:
    """Whether these are digests of parents, and no mark that a stage put beside them (`Stage.marks`)."""
    several = [digests] if isinstance(digests, str) else digests
    return all(_DIGEST.fullmatch(str(one)) for one in several)


def write_export_card(target: Path, source: Path, form: str) -> None:
    """Write the card of an exported model: its form and digest, of which model it was made, and what that was made of."""
    library = "gguf" if is_gguf(target) else "onnx" if is_onnx(target) else "transformers"
    own: dict[str, Any] = {
        "format": form,
        "sha256": weights_digest(target),
        "source_sha256": weights_digest(source),
    }
    lines = [
        f"- weights, {form}: `{own['sha256']}`",
        f"- made of the weights `{own['source_sha256']}` (`{source.name}`)",
    ]
    if manifest := read_manifest(source / MANIFEST):
        parents = {role: digests for role, digests in manifest.inputs.items() if _are_digests(digests)}
        own |= {"stage": manifest.stage, "key": manifest.key, "parents": parents}
        lines.append(f"- which the stage `{manifest.stage}` made (`{manifest.key}`)")
        for role, digests in parents.items():
            several = [digests] if isinstance(digests, str) else digests
            lines.append(f"  - of {role}: {', '.join(f'`{one}`' for one in several)}")
    facts = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        **inherited(source),
        "tags": ["leanpipe", form],
        "leanpipe": own,
    }
    known = licence(source)
    said = (
        f"Its licence is {known}."
        if known
        else "No licence of what it was made of is known here: look for it before you pass it on."
    )
    text = (
        f"# {form}\n\nA language model, quantised or exported by leanpipe. {said}\n\nSHA-256:\n\n"
        + "\n".join(lines)
    )
    write_card(target, facts, text)
