"""Ways of choosing an answer's next token: greedily, or drawn by temperature, top-k, nucleus (top-p) and min-p.

Where several are given, the probabilities are first sharpened or flattened by the temperature, then cut by top-k, top-p and
min-p, which is transformers' order; the engines of GGUF and ONNX files are asked for the same.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GREEDY = "greedy"
_BOUNDS = {"temperature": (0.01, 2.0), "top_k": (1, 1_000_000), "top_p": (0.01, 1.0), "min_p": (0.0, 1.0)}
_EXAMPLE = "greedy, or any of temperature=0.8 top_k=40 top_p=0.9 min_p=0.1 with spaces between them"


@dataclass(frozen=True)
class Sampling:
    """One way of choosing tokens; the defaults of the numbers change nothing."""

    name: str
    """In figures' names: `greedy`, `top_p_0.9`, `temperature_0.7_top_p_0.9`."""
    drawn: bool = False
    """Whether the token is drawn, rather than the likeliest one."""
    temperature: float = 1.0
    top_k: int = 0
    """0 is all tokens."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that have this share together (Holtzman et al. 2019, https://arxiv.org/abs/1904.09751)."""
    min_p: float = 0.0
    """Draw from tokens that are this share as likely as the likeliest (Nguyen et al. 2024, https://arxiv.org/abs/2407.01082)."""

    def numbers(self) -> dict[str, Any]:
        """Return temperature, top_k, top_p and min_p by their names, which all engines share."""
        return {name: getattr(self, name) for name in _BOUNDS}


def parse_sampling(text: str) -> Sampling:
    """Read `greedy`, or `temperature=0.7 top_p=0.9`. Raises ValueError for what is none."""
    if text.strip() == GREEDY:
        return Sampling(GREEDY)
    given: dict[str, float] = {}
    for part in text.split():
        found = re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)", part)
        if not found or found[1] not in _BOUNDS or found[1] in given:
            raise ValueError(f"{text!r} is no way of sampling: write {_EXAMPLE}")
        least, most = _BOUNDS[found[1]]
        number = float(found[2])
        if not least <= number <= most or (found[1] == "top_k" and number != int(number)):
            whole = "whole " if found[1] == "top_k" else ""
            raise ValueError(
                f"{part!r} is out of bounds: {found[1]} is a {whole}number from {least} to {most}"
            )
        given[found[1]] = int(number) if found[1] == "top_k" else number
    if not given:
        raise ValueError(f"an empty text is no way of sampling: write {_EXAMPLE}")
    ordered = {name: given[name] for name in _BOUNDS if name in given}
    name = "_".join(f"{name}_{value:g}" for name, value in ordered.items())
    return Sampling(name, drawn=True, **ordered)  # type: ignore[arg-type]


def parse_samplings(texts: Sequence[str]) -> list[Sampling]:
    """Read several. Raises ValueError if one is none, or is there twice."""
    found = [parse_sampling(text) for text in texts]
    twice = {one.name for one in found if found.count(one) > 1}
    if twice:
        raise ValueError(f"{min(twice)} is there twice: write each way of sampling once")
    return found
