"""What an exported file says of where it comes from: the digest of the weights, the licence, the base model."""

from pathlib import Path

from leanpipe.core.errors import UserError
from leanpipe.core.store import content_digest, digest_file
from leanpipe.models.offload import weight_files

_CARD = "README.md"


def provenance(folder: Path) -> dict[str, str]:
    """Name what is known of the model folder that something is made of, for the metadata of an exported file.

    The licence is that of the folder's card, if it has one: none is guessed.
    """
    found = {"leanpipe.source": folder.name}
    try:
        files = weight_files(folder)
    except UserError:  # a model that was never written
        return {}
    found["leanpipe.source_sha256"] = content_digest({one.name: digest_file(one) for one in files})
    card = _front_matter(folder)
    for key in ("license", "base_model"):
        if isinstance(value := card.get(key), str):
            found[f"general.{key}"] = value
    return found


def licence(folder: Path) -> str:
    """The name of the licence that the folder's card gives; empty if it gives none."""
    value = _front_matter(folder).get("license")
    return value if isinstance(value, str) else ""


def _front_matter(folder: Path) -> dict[str, object]:
    import yaml

    card = folder / _CARD
    if not card.is_file():
        return {}
    _, marker, rest = card.read_text(errors="replace").partition("---\n")
    try:
        found = yaml.safe_load(rest.partition("\n---")[0]) if marker else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
