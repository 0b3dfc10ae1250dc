"""Figures of a stage: in a sentence, and under the names by which runs of a flow are compared."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from leanpipe.core.stage import NOT_COMPARED, Stage, known_stages
from leanpipe.core.store import Artifact

_GROUPS = {
    "evaluation": "eval",
    "compression": "model",
    "models": "model",
    "shrink": "model",
    "training": "train",
    "corpus": "text",
    "tokens": "text",
}
"""What a stage's figures are about, by its package. MLflow's page of a run has the groups by the alphabet: none comes before eval."""
_ORDER = ("eval", "serve", "model", "train", "text", "stages")
"""The groups as a person compares them: MLflow shows first what it was told first."""
_OF_MODELS = ("eval", "serve")
"""Groups in which the figures of several models stand beside each other."""


def headline(summary: Mapping[str, Any], most: int = 4) -> str:
    """The first few figures of a stage: stages put what matters first."""
    figures = [(name, value) for name, value in summary.items() if not isinstance(value, str)]
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in figures[:most])


def compared(results: Mapping[str, Artifact]) -> dict[str, Any]:
    """Name the figures of a flow's stages, by label, so that runs compare by them: what matters most comes first.

    `eval/bits_per_byte/nf4`: of a stage that a flow has several times a figure stands beside those of the others, the one
    of what was made last first. `text/clean/documents_kept`: of any other it stands beside the stage's own.
    `stages/seconds/clean`: what each took. Texts, and figures that say only what went in, are tags: `clean.documents_in`.
    Of what a model is like the figure comes first that most models have: not what only the chosen one was checked for.
    """
    named = list(chain.from_iterable(_named(*one) for one in reversed(list(results.items()))))
    tags = {name: str(value) for name, value in named if "/" not in name and value != ""}
    metrics = sorted((name for name in named if "/" in name[0]), key=lambda one: _place(one[0], named))
    return dict(metrics) | tags


def _named(label: str, result: Artifact) -> list[tuple[str, Any]]:
    stage = known_stages().get(result.name)
    group = _group(stage)
    taken = {"seconds": result.seconds, "peak_memory_bytes": result.peak_memory}
    figures = {f"stages/{name}/{label}": value for name, value in taken.items()}
    for name, value in result.summary.items():
        about = (stage.groups if stage else {}).get(name, group)
        if isinstance(value, str) or about == NOT_COMPARED:
            figures[f"{label}.{name}"] = value
        elif label.startswith(f"{result.name}-"):
            figures[f"{about}/{name}/{label.removeprefix(f'{result.name}-')}"] = value
        else:
            figures[f"{about}/{label}/{name}"] = value
    return list(figures.items())


def _group(stage: Stage | None) -> str:
    package = stage.function.__module__.split(".")[1:2] if stage else []
    return _GROUPS.get("".join(package), "stages")


def _place(name: str, named: list[tuple[str, Any]]) -> tuple[int, int, int]:
    """First by group, of models by how many have the figure, then by figure as the stages order them."""
    group, middle, _ = name.split("/", 2)
    same = [number for number, (other, _) in enumerate(named) if other.startswith(f"{group}/{middle}/")]
    return _ORDER.index(group), -len(same) if group in _OF_MODELS else 0, same[0]


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
