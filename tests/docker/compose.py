"""The files of docker/ as values, for the tests that hold them against the installed programs."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
"""`${NAME}`, `${NAME:-default}` or `${NAME:?message}`: name, operator and what follows it."""


@cache
def services() -> dict[str, Any]:
    """The services of compose.yaml, with nothing replaced."""
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


def environment(service: str, **values: str) -> dict[str, str]:
    """The service's environment, its variables replaced by `values` or their defaults."""
    given = services()[service].get("environment", {})
    return {name: replaced(str(value), values) for name, value in given.items()}


def replaced(text: str, values: dict[str, str]) -> str:
    """`text` with its variables replaced; KeyError if one has neither value nor default."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        return values.get(name, rest) if operator == ":-" else values[name]

    return VARIABLE.sub(value, text)


def settings(dockerfile: str) -> dict[str, str]:
    """What every ENV of the Dockerfile sets."""
    joined = dockerfile.replace("\\\n", " ")
    lines = [line.removeprefix("ENV ") for line in joined.splitlines() if line.startswith("ENV ")]
    return dict(entry.split("=", 1) for line in lines for entry in line.split())


def copied(dockerfile: str) -> list[str]:
    """The paths that the Dockerfile copies from the build's context."""
    lines = [line.split() for line in dockerfile.splitlines() if line.startswith("COPY ")]
    return [path for words in lines if not words[1].startswith("--from") for path in words[1:-1]]
