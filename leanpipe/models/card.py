"""What a model folder's card says of its licence, and how that goes with whatever is made of the model.

A card is a README.md that begins with YAML between two lines of `---`, as on the Hugging Face hub.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CARD = "README.md"
_INHERITED = ("license", "license_name", "license_link", "base_model")
"""What of a card holds for what is made of the model, too."""


def front_matter(folder: Path) -> dict[str, Any]:
    """Read the facts at the beginning of the folder's card; none if it has no card, or one without them."""
    import yaml

    card = folder / CARD
    if not card.is_file():
        return {}
    _, marker, rest = card.read_text(errors="replace").partition("---\n")
    try:
        found = yaml.safe_load(rest.partition("\n---")[0]) if marker else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def inherited(folder: Path) -> dict[str, str]:
    """Licence and base model, as the folder's card names them."""
    facts = front_matter(folder)
    return {key: facts[key] for key in _INHERITED if isinstance(facts.get(key), str)}


def write_card(folder: Path, facts: Mapping[str, Any], text: str) -> None:
    """Write a card of these facts and this text in Markdown."""
    import yaml

    head = yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True)
    (folder / CARD).write_text(f"---\n{head}---\n\n{text}\n")


def carry_licence(source: str, target: Path) -> None:
    """Give the model in `target`, which was made of the one in the folder `source`, its licence, if that says one."""
    if (
        source
        and Path(source).is_dir()
        and not (target / CARD).exists()
        and (facts := inherited(Path(source)))
    ):
        write_card(target, facts, "Made of a model of this licence by leanpipe.")
