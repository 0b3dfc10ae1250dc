"""What Tab offers after an option or in the place of a flow's name."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from leanpipe.compression.formats import Format
from leanpipe.settings.flows import SETTINGS
from leanpipe.settings.presets import PRESETS

Offered = Sequence[str | tuple[str, str]]
"""Words, or words with what they mean."""
Completion = Callable[[str], Offered]


def complete_flow(incomplete: str) -> Offered:
    """List the flows that begin so, each with what its settings are."""
    return [
        (name, _first_line(kind.__doc__)) for name, kind in SETTINGS.items() if name.startswith(incomplete)
    ]


def complete_preset(incomplete: str) -> Offered:
    """List the presets that begin so, each with what it is for."""
    return [
        (str(name), _first_line(made.__doc__))
        for name, made in PRESETS.items()
        if name.startswith(incomplete)
    ]


def _complete_path(*names: str) -> Completion:
    """Offer files and folders, and these names of what needs no file."""

    def complete(incomplete: str) -> Offered:
        return [name for name in names if name.startswith(incomplete)] + list(_paths(incomplete))

    return complete


def _paths(incomplete: str) -> Iterator[str]:
    folder, _, begun = incomplete.rpartition("/")
    root = Path(f"{folder}/" if "/" in incomplete else ".").expanduser()
    if root.is_dir():
        for path in sorted(root.glob(f"{begun}*")):
            yield incomplete[: len(incomplete) - len(begun)] + path.name + ("/" if path.is_dir() else "")


def _complete_format(incomplete: str) -> Offered:
    return [name for name in get_args(Format) if name.startswith(incomplete)]


def _first_line(text: str | None) -> str:
    return (text or "").split("\n")[0]


COMPLETIONS: dict[str, Completion] = {
    "corpus": _complete_path("sample", "python-topics"),
    "instructions": _complete_path("alpaca-sample", "python-docstrings"),
    "teacher": _complete_path("smollm2-135m-instruct", "tiny"),
    "preset": complete_preset,
    "quantize_formats": _complete_format,
    "evaluation_sets": _complete_path(),
}
"""By field of the short form; the others have no names that could be offered."""
