"""The parts of a model whose types are chosen together: the attention and the MLP of each layer, embeddings, output layer."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leanpipe.compression.gguf_architectures import tensors_of
from leanpipe.compression.gguf_types import sizes_of, stored_type

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CANDIDATES = ("q8_0", "q6_k", "q5_0", "iq4_nl", "q4_0")
"""Types that a part may get; where rows do not fit a K-type, it stands for what is stored in its place.

Types with a least value (Q4_1, Q5_1, Q4_K, Q5_K) are left out: they round with a bias, which adds up over inputs whose mean
is not zero, so that their squared errors foretell far too little (benchmarks/LOG.md)."""

_LAYER = re.compile(r"blk\.(\d+)\.(attn|ffn)")
_NAMES = {"token_embd.weight": "embeddings", "output.weight": "output"}


@dataclass(frozen=True)
class WeightGroup:
    """Weights that get their types together."""

    name: str
    layer: int | None
    """The layer that they belong to; None for embeddings and output layer."""
    modules: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def stored(self, kind: str) -> tuple[str, ...]:
        """What each of the weights is stored in if the group gets a type."""
        return tuple(stored_type(kind, shape[-1]) for shape in self.shapes)

    def bytes(self, kind: str) -> int:
        """The bytes that the weights take in a type."""
        total = 0
        for shape, stored in zip(self.shapes, self.stored(kind), strict=True):
            block, size = sizes_of(stored)
            total += shape[0] * shape[1] // block * size
        return total

    def types(self) -> tuple[str, ...]:
        """The candidates that differ for these weights: of two that store the same, the first."""
        seen: dict[tuple[str, ...], str] = {}
        for kind in CANDIDATES:
            seen.setdefault(self.stored(kind), kind)
        return tuple(seen.values())


def weight_groups(model: "PreTrainedModel", kept: Iterable[str] = ()) -> list[WeightGroup]:
    """List the groups of a model, which may be empty (on the meta device); the modules `kept` are in none."""
    found: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    layers: dict[str, int | None] = {}
    whole = set(kept)
    for tensor in tensors_of(model):
        layer = _LAYER.match(tensor.name)
        name = f"layer {layer[1]}, {'attention' if layer[2] == 'attn' else 'MLP'}" if layer else None
        name = name or _NAMES.get(tensor.name)
        in_layers_and_kept = layer and tensor.module in whole
        if name is None or len(tensor.shape) != 2 or in_layers_and_kept:
            continue
        found.setdefault(name, []).append((tensor.module, tensor.shape))
        layers[name] = int(layer[1]) if layer else None
    return [
        WeightGroup(name, layers[name], *map(tuple, zip(*weights, strict=True)))
        for name, weights in found.items()
    ]


def chosen_modules(groups: Iterable[WeightGroup], types: Mapping[str, str]) -> dict[str, str]:
    """The type of each module, of the types of groups by their names."""
    return {module: types[group.name] for group in groups for module in group.modules}
