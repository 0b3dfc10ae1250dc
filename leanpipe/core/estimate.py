"""What is known of a stage before it runs: what its inputs will be like, and what it will take and give."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from leanpipe.core import device
from leanpipe.core.device import Kind
from leanpipe.core.store import MANIFEST, Artifact, Manifest, read_manifest

PROCESS = 515_000_000
"""Bytes that a stage's process on CPU has before it does anything: torch, transformers and their code. Measured."""
BYTES_PER_TOKEN = 3.5
"""Of text; English with a large vocabulary has 4 to 5, code and small vocabularies fewer."""
_HOST_BESIDE_CUDA = 4_000_000_000
"""CUDA's libraries, pinned buffers, a checkpoint being written."""


@dataclass(frozen=True)
class Expected:
    """Files that a stage will read: where they lie, if they do already, and what is known of them."""

    path: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """By the names that stages give them: `bytes` of text, `block_length`, `vocabulary`, `model` (a PretrainedConfig),
    `tokenizer` (a folder). Of a published result also its settings and headline figures."""
    name: str = ""
    origin: str = ""
    """Which of a run's inputs, or the label of the stage by which they will be written (see leanpipe/planning/steps.py)."""

    def inside(self, folder: str) -> "Expected":
        """A folder within these files, of which the same is known."""
        return replace(
            self, path=self.path and self.path / folder, origin=self.origin and f"{self.origin}/{folder}"
        )


ExpectedInputs = Mapping[str, Any]
"""Expected, or a tuple of them, by the stage's roles. A role that a stage does without, or of which nothing is known, is
not among them."""


@dataclass(frozen=True, eq=False)
class Repeated:
    """Work that a stage does over and over with one model: a few steps of it tell how long all will take."""

    what: Literal["train", "train_layers", "adapt", "read", "write"]
    """Train all weights, or those of layers alone, or adapters beside them; read text; write it token by token."""
    model: Any
    """A PretrainedConfig: the shape is enough."""
    tokens: float
    """How many there will be in all."""
    length: int = 256
    """Tokens of a block."""
    rows: int = 1
    """Blocks that are worked on at once."""
    arithmetic: str = "fp32"
    """Type of the matrix products: bf16, fp16 or fp32."""


def read_arithmetic() -> str:
    """The arithmetic of a model that is only read or written with on this device."""
    return device.arithmetic_of("auto")


@dataclass(frozen=True)
class Estimate:
    """What a stage will take: memory and disk in bytes, work in floating-point operations; and what it will give."""

    peak: int = 0
    """Memory at the peak: of the device; on a processor, of the stage's process."""
    host: int = 0
    """Memory of the machine at the peak."""
    disk: int = 0
    work: float = 0.0
    parts: Mapping[str, int] = field(default_factory=dict)
    """Bytes by what they are for."""
    movable: int = 0
    """Bytes of `peak` that may lie in the host's memory or on disk instead: weights that are only read."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """Facts about what the stage writes, for the stages that read it."""
    repeated: tuple[Repeated, ...] = ()
    """What most of its time goes to, as far as it can be timed beforehand."""
    derived: str = ""
    """Settings that follow from others, as what they are."""

    @property
    def is_known(self) -> bool:
        """Whether there is anything to plan with."""
        return bool(self.peak or self.host or self.disk or self.work)


def expected(artifact: Artifact, origin: str = "") -> Expected:
    """What is known of files that are there."""
    # A user's folder may have a file of that name, which is something else.
    manifest = read_manifest(artifact.path / MANIFEST)
    facts = _facts(manifest) if manifest else {}
    return Expected(artifact.path, facts, artifact.name, origin)


def published(path: Path, manifest: Manifest) -> Expected:
    """What is known of the result in the folder `path`."""
    return Expected(path, _facts(manifest), manifest.stage)


def process_bytes(kind: Kind) -> int:
    """Memory of a stage's process before it does anything, as counted for the device: a card holds nothing of it."""
    return PROCESS if kind == "cpu" else 0


def host_bytes(kind: Kind, peak: int) -> int:
    """Memory of the machine for a stage that takes `peak` bytes of the device."""
    return peak if kind == "cpu" else _HOST_BESIDE_CUDA


def bytes_of_weight() -> int:
    """Bytes of one weight of a model that is only read on this device."""
    return 2 if device.has_bfloat16() else 4


def without_device(kind: Kind, disk: int, parts: Mapping[str, int], result: Mapping[str, Any]) -> Estimate:
    """The estimate of a stage that works in the host's memory only: `parts` of it."""
    host = sum(parts.values())
    return Estimate(host if kind == "cpu" else 0, host, disk, parts=parts, result=result)


def _facts(manifest: Manifest) -> dict[str, Any]:
    return manifest.summary | manifest.config
