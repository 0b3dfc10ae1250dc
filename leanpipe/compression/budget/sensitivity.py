"""Stage `sensitivity`: how far a model's predictions move when one part of it alone is stored in few bits.

For small errors the KL divergence grows with their squares and those of several parts nearly add up, so this foretells what
any choice of types loses. How nearly is measured: all layers, the embeddings and the whole model are stored in each type, on
more text, and what their parts lose is scaled to that; and llama.cpp reads a file, for its arithmetic costs a little, too. The text is the split `validation`, to which nothing was fitted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from leanpipe.compression.budget.weight_groups import CANDIDATES, WeightGroup, chosen_modules, weight_groups
from leanpipe.compression.calibration import (
    calibration_texts,
    measure_importance_matrix,
    validation_texts,
)
from leanpipe.compression.shapes import split_modules
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.estimate import Estimate, ExpectedInputs, host_bytes, process_bytes
from leanpipe.core.files import write_text
from leanpipe.core.lineage import PREPARED_FROM
from leanpipe.core.plots import NEUTRAL, picture
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage
from leanpipe.core.store import REPORT

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from leanpipe.compression.gguf_export import Importance

BASE = "q4_0"
"""The type in which parts are laid beside each other, in the table and the picture."""
MEASURED = ("q4_0", "iq4_nl", "q5_0")
"""Types that each part is stored in. What it loses in finer ones follows from the last of these and the squared errors of its weights."""
FILE = "sensitivity.json"
_ROWS = 128
"""Of each weight, by which the squared errors of other types are told."""


class SensitivityConfig(StageConfig):
    """How much text it is measured on which parts of a model are sensitive."""

    tokens: int = Field(1_024, ge=64, le=1_000_000)
    """Tokens of text on which the model is compared with itself, once for each part of it in each of some types."""
    whole_tokens: int = Field(4_096, ge=64, le=1_000_000)
    """Tokens on which it is measured what all parts together lose, a few times, and what the types that were chosen lose."""
    calibration_tokens: int = Field(4_096, ge=0, le=10_000_000)
    """Tokens on which it is measured which weights matter most, as `quantize.calibration_tokens`."""
    keep: tuple[str, ...] = Field((), max_length=1_000)
    """Modules that stay in full precision, as `quantize.keep`."""


@dataclass(frozen=True)
class SensitivityInputs:
    """A model folder in full precision, and the output folder of the clean stage."""

    model: Path
    documents: Path


@dataclass(frozen=True)
class Part:
    """What was measured of one group of weights."""

    name: str
    losses: Mapping[str, float]
    """Nats per token by type, scaled so that all layers together, or the embeddings, lose what was measured."""
    alone: float
    """Nats per token on less text, if it alone is stored in `BASE`."""


@dataclass(frozen=True)
class Sensitivity:
    """What was measured of a model."""

    parts: tuple[Part, ...]
    whole: Mapping[str, tuple[float, float]]
    """By type that the whole model was stored in: the sum of what its parts lose, and what it lost."""
    engine: float = 0.0
    """Nats per token that llama.cpp's arithmetic adds to what weights lose."""

    @classmethod
    def read(cls, folder: Path) -> "Sensitivity":
        """Read the result of the stage."""
        found = json.loads((folder / FILE).read_text())
        return cls(tuple(Part(**part) for part in found["parts"]), found["whole"], found["engine"])


def estimate_sensitivity(config: SensitivityConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `sensitivity` takes: the model in FP32, what its layers give out, and half a pass for each part and type."""
    from leanpipe.models.count import expected_config
    from leanpipe.training.trainer.memory import size_of

    model = expected_config(inputs["model"])
    size, text = size_of(model), model.get_text_config()
    layers = config.tokens * text.hidden_size * text.num_hidden_layers
    parts = {
        "process": process_bytes(kind),
        "weights": 8 * size.parameters,
        "activations": 4 * (layers + (config.tokens + config.whole_tokens) * text.vocab_size),
    }
    peak = sum(parts.values())
    passes = config.tokens * text.num_hidden_layers * len(MEASURED)
    passes += config.whole_tokens * (3 * len(MEASURED) + 2) + config.calibration_tokens
    work = 2.0 * size.parameters * passes
    return Estimate(peak, host_bytes(kind, peak), 1_000_000, work, parts)


@stage(version=2, uses_device=True, estimate=estimate_sensitivity, reads={"documents": PREPARED_FROM})
def sensitivity(config: SensitivityConfig, inputs: SensitivityInputs, out: Path, report: Report) -> Summary:
    """Measure how far predictions move when one part of a model alone is stored in few bits, and draw it."""
    import torch

    from leanpipe.compression.budget.engine_loss import engine_loss
    from leanpipe.models.load import load_model, load_tokenizer

    model, tokenizer = load_model(inputs.model, torch.float32), load_tokenizer(inputs.model)
    kept, _ = split_modules(model, config.keep)
    groups = weight_groups(model, kept)
    importance = None
    if config.calibration_tokens:
        texts = calibration_texts(inputs.documents, tokenizer, model.config, config.calibration_tokens)
        importance = measure_importance_matrix(model, texts)
    some, more = (
        validation_texts(inputs.documents, tokenizer, model.config, tokens)
        for tokens in (config.tokens, config.whole_tokens)
    )
    alone = _alone(model, groups, some, importance, report)
    added = engine_loss(model, tokenizer, groups, some, out.parent)
    found = replace(scaled_to_whole(model, groups, alone, more, importance), engine=added)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / FILE, json.dumps(asdict(found), indent=1))
    _write_report(groups, found.parts, out / REPORT)
    most = max(found.parts, key=lambda part: part.alone)
    return {
        "parts": len(found.parts),
        "most_sensitive": most.name,
        "most_sensitive_loss": most.alone,
        "loss_in_four_bits": found.whole[BASE][1],
        "sum_of_parts": found.whole[BASE][0],
        "loss_of_engine": found.engine,
    }


Losses = dict[str, dict[str, float]]
"""Nats per token, by part and by type."""


def _alone(
    model: "PreTrainedModel",
    groups: Sequence[WeightGroup],
    texts: "Sequence[torch.Tensor]",
    importance: "Importance | None",
    report: Report,
) -> Losses:
    """What each part loses if it alone is stored in each type."""
    from leanpipe.compression.budget.divergence import Divergence, rounded

    divergence, found = Divergence(model, texts), Losses()
    for done, group in enumerate(groups):
        report.progress(done, len(groups), "parts of the model")
        losses = found[group.name] = {}
        for kind in MEASURED:
            with rounded(model, dict.fromkeys(group.modules, kind), importance):
                losses[kind] = max(divergence.now(group.layer or 0), 0.0)
        finer = [kind for kind in group.types() if kind not in MEASURED]
        base = squared_error(model, group, MEASURED[-1], importance)
        for kind in finer:
            error = squared_error(model, group, kind, importance)
            losses[kind] = losses[MEASURED[-1]] * error / max(base, 1e-30)
    report.progress(len(groups), len(groups), "parts of the model")
    return found


def squared_error(
    model: "PreTrainedModel", group: WeightGroup, kind: str, importance: "Importance | None"
) -> float:
    """Squared error of the weights in a type, each counted as much as its input says."""
    from leanpipe.compression.budget.divergence import as_stored, module_rows

    total = 0.0
    for module, shape in zip(group.modules, group.shapes, strict=True):
        exact, turned = module_rows(model, module, _ROWS)
        read = as_stored(model, module, kind, importance, _ROWS)
        squares = (exact - (read.T if turned else read)).square()
        if importance and module in importance:
            squares = squares * importance[module]
        total += float(squares.sum()) * shape[0] / len(exact)
    return total


def scaled_to_whole(
    model: "PreTrainedModel",
    groups: Sequence[WeightGroup],
    alone: Losses,
    texts: "Sequence[torch.Tensor]",
    importance: "Importance | None",
) -> Sensitivity:
    """Scale what parts lose alone to what all layers together lose, and the embeddings, in each type, on other texts.

    What the whole model then loses is measured too.
    """
    from leanpipe.compression.budget.divergence import Divergence, rounded

    divergence = Divergence(model, texts, layers=False)
    layers = [group for group in groups if group.layer is not None]
    vocabulary = [group for group in groups if group.layer is None]
    scaled: Losses = {name: dict(losses) for name, losses in alone.items()}
    whole: dict[str, tuple[float, float]] = {}

    def fit(some: Sequence[WeightGroup], kind: str, loss: float) -> None:
        total = sum(alone[group.name][kind] for group in some)
        for group in some if total > 0 else ():
            scaled[group.name][kind] = alone[group.name][kind] * loss / total

    for kind in (*MEASURED, CANDIDATES[0]):
        both = [chosen_modules(some, {one.name: kind for one in some}) for some in (layers, vocabulary)]
        if kind in MEASURED:
            with rounded(model, both[1], importance):
                fit(vocabulary, kind, divergence.now())
        with rounded(model, both[0], importance):
            if kind in MEASURED:
                fit(layers, kind, divergence.now())
            with rounded(model, both[1], importance):
                loss = divergence.now()
        if kind not in MEASURED:
            fit(groups, kind, loss)
        whole[kind] = sum(losses[kind] for losses in scaled.values()), loss
    for group in groups:  # types between those that were measured and the finest
        first, mine, theirs = MEASURED[-1], scaled[group.name], alone[group.name]
        for kind in set(mine) - set(whole):
            mine[kind] = theirs[kind] * mine[first] / max(theirs[first], 1e-30)
    parts = (Part(group.name, scaled[group.name], alone[group.name][BASE]) for group in groups)
    return Sensitivity(tuple(parts), whole)


def _write_report(groups: Sequence[WeightGroup], parts: Sequence[Part], folder: Path) -> None:
    """List and draw what each part loses."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'"{part.name}",{part.alone:.8f}' for part in parts]
    (folder / "sensitivity.csv").write_text("\n".join([f"part,nats per token in {BASE}", *lines]) + "\n")
    layers = sorted({group.layer for group in groups if group.layer is not None})
    losses = {part.name: part.alone for part in parts}
    with picture(folder / "sensitivity.png") as axes:
        for kind, offset, color in (("attention", -0.2, "C0"), ("MLP", 0.2, "C1")):
            heights = [losses.get(f"layer {layer}, {kind}", 0.0) for layer in layers]
            axes.bar([layer + offset for layer in layers], heights, 0.4, color=color, label=kind)
        for group in groups:
            if group.layer is None:
                axes.axhline(losses[group.name], color=NEUTRAL, linestyle="--", label=group.name)
        axes.set(title="What one part alone loses in four bits", xlabel="layer", ylabel="nats per token")
        axes.legend()
