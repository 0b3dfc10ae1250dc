"""Stage `sensitivity`: how far a model's predictions move when one part of it alone is stored in four bits.

For small errors the KL divergence grows with their squares and those of several parts nearly add up, so this, and the
squared error of each part in each other type, foretell what any choice of types loses. How nearly is measured: as a whole
the model is stored in some types, and that is laid beside the sum of its parts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from leanpipe.compression.budget.weight_groups import WeightGroup, chosen_modules, weight_groups
from leanpipe.compression.calibration import calibration_texts, measure_importance_matrix
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
    from transformers import PreTrainedModel

    from leanpipe.compression.budget.divergence import Divergence
    from leanpipe.compression.gguf_export import Importance

BASE = "q4_0"
"""The type that a part is stored in to see what that costs."""
WHOLE_IN = ("q8_0", "q5_0", "iq4_nl", "q4_0")
"""Types that the whole model is stored in, to see how the losses of its parts add up."""
FILE = "sensitivity.json"
_ROWS = 128
"""Of each weight, by which the squared errors of other types are told."""


class SensitivityConfig(StageConfig):
    """How much text it is measured on which parts of a model are sensitive."""

    tokens: int = Field(2_048, ge=64, le=1_000_000)
    """Tokens of the training text on which the model is compared with itself, once for each part of it."""
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
    loss: float
    """Nats per token, if it alone is stored in `BASE`."""
    errors: Mapping[str, float]
    """Squared error in each type, where that in `BASE` is 1."""


@dataclass(frozen=True)
class Sensitivity:
    """What was measured of a model."""

    parts: tuple[Part, ...]
    whole: Mapping[str, tuple[float, float]]
    """By type that the whole model was stored in: the sum of what its parts lose, and what it lost."""

    @classmethod
    def read(cls, folder: Path) -> "Sensitivity":
        """Read the result of the stage."""
        found = json.loads((folder / FILE).read_text())
        return cls(tuple(Part(**part) for part in found["parts"]), found["whole"])


def estimate_sensitivity(config: SensitivityConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `sensitivity` takes: the model in FP32, what its layers give out, and half a pass for each part."""
    from leanpipe.models.count import expected_config
    from leanpipe.training.trainer.memory import size_of

    model = expected_config(inputs["model"])
    size, text = size_of(model), model.get_text_config()
    parts = {
        "process": process_bytes(kind),
        "weights": 6 * size.parameters,
        "activations": 4 * config.tokens * (text.hidden_size * text.num_hidden_layers + 3 * text.vocab_size),
    }
    peak = sum(parts.values())
    work = 2.0 * size.parameters * (config.tokens * (text.num_hidden_layers + 6) + config.calibration_tokens)
    return Estimate(peak, host_bytes(kind, peak), 1_000_000, work, parts)


@stage(version=1, uses_device=True, estimate=estimate_sensitivity, reads={"documents": PREPARED_FROM})
def sensitivity(config: SensitivityConfig, inputs: SensitivityInputs, out: Path, report: Report) -> Summary:
    """Measure how far predictions move when one part of a model alone is stored in four bits, and draw it."""
    import torch

    from leanpipe.compression.budget.divergence import Divergence
    from leanpipe.models.load import load_model, load_tokenizer

    model, tokenizer = load_model(inputs.model, torch.float32), load_tokenizer(inputs.model)
    kept, _ = split_modules(model, config.keep)
    groups = weight_groups(model, kept)
    importance = None
    if config.calibration_tokens:
        texts = calibration_texts(inputs.documents, tokenizer, model.config, config.calibration_tokens)
        importance = measure_importance_matrix(model, texts)
    divergence = Divergence(
        model, calibration_texts(inputs.documents, tokenizer, model.config, config.tokens)
    )
    parts = []
    for done, group in enumerate(groups):
        report.progress(done, len(groups), "parts of the model")
        parts.append(_part(model, group, divergence, importance))
    whole = _whole(model, groups, parts, divergence, importance)
    report.progress(len(groups), len(groups), "parts of the model")
    found = Sensitivity(tuple(parts), whole)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / FILE, json.dumps(asdict(found), indent=1))
    _write_report(groups, parts, out / REPORT)
    most = max(parts, key=lambda part: part.loss)
    return {
        "parts": len(parts),
        "most_sensitive": most.name,
        "most_sensitive_loss": most.loss,
        "loss_in_four_bits": whole[BASE][1],
        "sum_of_parts": whole[BASE][0],
    }


def _part(
    model: "PreTrainedModel", group: WeightGroup, divergence: "Divergence", importance: "Importance | None"
) -> Part:
    from leanpipe.compression.budget.divergence import rounded

    with rounded(model, dict.fromkeys(group.modules, BASE), importance):
        loss = divergence.now(group.layer or 0)
    base = squared_error(model, group, BASE, importance)
    kinds = dict.fromkeys((*group.types(), *WHOLE_IN))
    errors = {kind: squared_error(model, group, kind, importance) / base for kind in kinds if kind != BASE}
    return Part(group.name, loss, errors | {BASE: 1.0})


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


def _whole(
    model: "PreTrainedModel",
    groups: Sequence[WeightGroup],
    parts: Sequence[Part],
    divergence: "Divergence",
    importance: "Importance | None",
) -> dict[str, tuple[float, float]]:
    from leanpipe.compression.budget.divergence import rounded

    found = {}
    for kind in WHOLE_IN:
        with rounded(model, chosen_modules(groups, {group.name: kind for group in groups}), importance):
            found[kind] = (sum(part.loss * part.errors[kind] for part in parts), divergence.now())
    return found


def _write_report(groups: Sequence[WeightGroup], parts: Sequence[Part], folder: Path) -> None:
    """List and draw what each part loses."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'"{part.name}",{part.loss:.8f}' for part in parts]
    (folder / "sensitivity.csv").write_text("\n".join([f"part,nats per token in {BASE}", *lines]) + "\n")
    layers = sorted({group.layer for group in groups if group.layer is not None})
    losses = {part.name: part.loss for part in parts}
    with picture(folder / "sensitivity.png") as axes:
        for kind, offset, color in (("attention", -0.2, "C0"), ("MLP", 0.2, "C1")):
            heights = [losses.get(f"layer {layer}, {kind}", 0.0) for layer in layers]
            axes.bar([layer + offset for layer in layers], heights, 0.4, color=color, label=kind)
        for group in groups:
            if group.layer is None:
                axes.axhline(losses[group.name], color=NEUTRAL, linestyle="--", label=group.name)
        axes.set(title="What one part alone loses in four bits", xlabel="layer", ylabel="nats per token")
        axes.legend()
