"""Which places a person who can start a run may read from.

Whoever reaches the Prefect UI can type any path. `LEANPIPE_ROOTS` holds the folders and URL prefixes that are permitted,
separated by `;` (a colon is part of every URL, and a space may be part of a path). Unset or blank: everything is.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from leanpipe.core.errors import UserError
from leanpipe.core.files import expanded

VARIABLE = "LEANPIPE_ROOTS"
_URL = re.compile(r"([a-z][a-z0-9+.-]*)(://|::)", re.IGNORECASE)
_LOCAL = ("file", "local")


@dataclass(frozen=True)
class Roots:
    """The permitted places; None permits every place."""

    permitted: tuple[str, ...] | None = None

    @classmethod
    def from_environment(cls) -> "Roots":
        """Read what LEANPIPE_ROOTS permits."""
        places = tuple(place.strip() for place in os.environ.get(VARIABLE, "").split(";") if place.strip())
        return cls(places or None)

    def check(self, field: str, reference: str) -> None:
        """Raise UserError unless `reference`, a path or URL that was given for `field`, lies in a permitted place.

        Links and `..` are resolved first. A name such as a hub id is no path: check only what is opened as one.
        """
        if not self.permits(reference):
            raise UserError(
                f"{field}: {reference} lies outside the permitted folders ({', '.join(self.permitted or ())}): give a "
                f"path in one of them, or have its folder added to {VARIABLE} where the worker is started"
            )

    def permits(self, reference: str) -> bool:
        """Whether `reference` lies in a permitted place."""
        if self.permitted is None:
            return True
        if "\0" in reference:
            return False
        path = local_path(reference)
        if path is None:
            return any(
                _is_below(_normal(reference), root) for root in self.permitted if local_path(root) is None
            )
        real = _real(path)
        roots = (local_path(root) for root in self.permitted)
        return any(real.is_relative_to(_real(root)) for root in roots if root)


def local_path(reference: str) -> Path | None:
    """The path on this machine that a reference (`data/`, `~/x`, `file:///data`) means; None if it is another URL."""
    found = _URL.match(reference)
    if not found:
        return expanded(reference)
    if found[1].lower() not in _LOCAL or found[2] != "://":
        return None
    return expanded(reference[found.end() :])


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve, it does not raise at a loop of links


def _normal(url: str) -> str:
    """The URL with its scheme in lower case; nothing that could lead out of the folder it names."""
    found = _URL.match(url)
    # "zip://x::file:///etc/y" opens the second through the first, and ".." is resolved by some servers.
    if not found or "::" in url or ".." in re.split(r"[/\\]", unquote(url)):
        return ""
    return found[1].lower() + url[found.end(1) :]


def _is_below(url: str, root: str) -> bool:
    folder = _normal(root).rstrip("/")
    return bool(folder) and (url == folder or url.startswith(f"{folder}/"))
