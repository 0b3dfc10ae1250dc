"""What a model folder's card says of its licence, and how that goes with whatever is made of the model.

A card is a README.md that begins with YAML between two lines of `---`, as on the Hugging Face hub.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leanpipe.core.stage import Inputs, Mark
from leanpipe.core.store import Artifact

CARD = "README.md"
_LICENCE = ("license", "license_name", "license_link")
_BASE = "base_model"
Told = dict[str, str | list[str]]
"""Of a card what holds for what is made of the model, too: its licence and its base model, each one text or several."""


def front_matter(folder: Path) -> dict[str, Any]:
    """Read the facts at the beginning of the folder's card; none if it has no card, or one without them."""
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    card = folder / CARD
    if not card.is_file():
        return {}
    block = REGEX_YAML_BLOCK.match(card.read_text(encoding="utf-8-sig", errors="replace"))
    try:
        found = yaml.safe_load(block[2]) if block else None
    except (yaml.YAMLError, ValueError):  # as of a date that is none
        return {}
    return found if isinstance(found, dict) else {}


def inherited(*folders: Path) -> Told:
    """Licence and base models of what is made of the models in these folders, as their cards name them.

    Where the licences differ it is `other`, whose name names them all: none of them is dropped.
    """
    cards = [front_matter(folder) for folder in folders]
    licences: list[Told] = []
    for card in cards:
        told = {key: card[key] for key in _LICENCE if texts(card.get(key))}
        if told and told not in licences:
            licences.append(told)
    if len(licences) > 1:
        names = (licence_name({**one, "license_link": ""}) for one in licences)
        licences = [{"license": "other", "license_name": "-and-".join(names)}]  # an id, as the hub wants one
    bases = list(dict.fromkeys(base for card in cards for base in texts(card.get(_BASE))))
    found: Told = dict(licences[0]) if licences else {}
    if bases:
        found[_BASE] = bases[0] if len(bases) == 1 else bases
    return found


def texts(value: object) -> list[str]:
    """Return one text, or a list of them, as a list; anything else, as YAML may hold, as an empty one."""
    several = value if isinstance(value, list) else [value]
    return [one for one in several if isinstance(one, str) and one] if several != [None] else []


def licence_name(told: Mapping[str, Any]) -> str:
    """Name a licence for people, with where it is written if that is told; empty if none is known."""
    licence = ", ".join(texts(told.get("license")))
    named = ", ".join(texts(told.get("license_name")))
    name = named if named and licence in ("", "other") else licence
    link = ", ".join(texts(told.get("license_link")))
    return f"{name} ({link})" if name and link else name


def write_card(folder: Path, facts: Mapping[str, Any], text: str) -> None:
    """Write a card of these facts and this text in Markdown."""
    import yaml

    head = yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True)
    (folder / CARD).write_text(f"---\n{head}---\n\n{text}\n", encoding="utf-8")


def carry_licence(sources: Sequence[Path], target: Path) -> None:
    """Give the model in `target`, which was made of those in the folders `sources`, their licence, if they name one."""
    if not (target / CARD).exists() and (told := inherited(*sources)):
        write_card(target, told, "Made of a model of this licence by leanpipe.")


def licensed_input(*roles: str, known: str = "") -> Mark:
    """Return what marks models in the inputs `roles` of a stage that once lost their licence, and carries it now.

    Of the one in the input `known` it was never lost.
    """

    def mark(inputs: Inputs) -> Mapping[str, str]:
        folders = {role: one.path for role in roles if isinstance(one := inputs.get(role), Artifact)}
        carried = inherited(*folders.values())
        before = inherited(folders[known]) if known in folders else {}
        return {"licence": "carried"} if carried != before else {}

    return mark
