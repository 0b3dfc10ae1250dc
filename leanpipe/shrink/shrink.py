"""Stage `shrink`: the teacher cut to a student's shape, before it learns: layers, MLP channels, groups of heads, hidden width.

What is cut is what does least on the corpus: layers by how much they change what goes through them (ShortGPT), the rest by
the size of its activations (Minitron). The result is a plain dense model of the teacher's own class. With `shape.json` it
says which of the teacher's layers and hidden states it has.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import (
    Estimate,
    Expected,
    ExpectedInputs,
    Repeated,
    bytes_of_weight,
    host_bytes,
    process_bytes,
    read_arithmetic,
)
from leanpipe.core.lineage import PREPARED_FROM
from leanpipe.core.markdown import table
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Page, Summary, stage
from leanpipe.core.store import REPORT
from leanpipe.models.card import licensed_input
from leanpipe.models.load import check_numbers, load_for_inference, load_tokenizer, save_model
from leanpipe.models.student import write_shape
from leanpipe.shrink.budget import (
    AskedShape,
    BudgetConfig,
    Shape,
    best_multiple,
    choose_shape,
    odd_sizes,
    uncut_parts,
    whole_shape,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from leanpipe.shrink.importance import Importance
    from leanpipe.shrink.narrow import Cut

_LAYERS_TRIED = 2
"""Fewer layers leave room for more channels: of two depths that are as good, that with the better number of channels."""
log = logging.getLogger(__name__)


class ShrinkConfig(BudgetConfig):
    """How large the student is, which shape it has, and what of the teacher it begins with."""

    width: float = Field(1.0, gt=0, le=1)
    """Width of the student as a share of the teacher's: of hidden states, MLP channels and heads."""
    cut: Literal["layers", "layers_and_channels"] = "layers"
    """What goes where neither is given: whole layers, or half as many (or one more), and MLP channels for the rest of the size. The
    latter begins nearer to the teacher, but learns and decodes more slowly, by about as much as there are more layers."""
    layers: int = Field(0, ge=0, le=100_000)
    """Layers of the student; 0 for what `cut` says."""
    mlp_channels: int = Field(0, ge=0, le=10_000_000)
    """Channels of each layer's MLP; 0 for as many as `width` says, and fewer where the size has no room for them."""
    kv_groups: int = Field(0, ge=0, le=100_000)
    """Groups of attention heads that share one key and value; 0 for as many as `width` says."""
    hidden_size: int = Field(0, ge=0, le=1_000_000)
    """Entries of the hidden states; 0 for as many as `width` says."""
    initialization: Literal["teacher_layers", "random"] = "teacher_layers"
    """Begin with what is most important of the teacher, or with new weights (which need far more tokens)."""
    keep: Literal["importance", "divergence", "first_and_last", "evenly_spaced"] = "importance"
    """Which of the teacher's layers stay: those that change the most what goes through them, as measured on the text; those
    without which its predictions would change the most, tried one after the other, which is better and takes about a
    hundred times the calibration text; the first and the last ones (two to one), or evenly spaced ones."""
    calibration_tokens: int = Field(4_096, ge=1, le=10**9)
    """Tokens of the training text on which it is measured what is important."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Seed of new weights."""

    @property
    def asked(self) -> AskedShape:
        """What of the shape is given."""
        return AskedShape(self.width, self.layers, self.mlp_channels, self.kv_groups, self.hidden_size)


@dataclass(frozen=True)
class ShrinkInputs:
    """The teacher's model folder, and the output folder of the tokenize stage."""

    teacher: Path
    blocks: Path


def check_shrink(config: ShrinkConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for a shape that this teacher cannot have; say what odd sizes will cost. Reads its config only."""
    from leanpipe.models.count import empty_model, expected_config
    from leanpipe.models.student import layer_list_name
    from leanpipe.shrink.cuttable import check_cuttable

    if not inputs["teacher"].path and "model" not in inputs["teacher"].facts:
        return
    teacher = expected_config(inputs["teacher"])
    empty = empty_model(teacher)
    asked = whole_shape(teacher)._replace(widths=config.asked.widths(teacher))
    check_cuttable(empty, parts_to_cut(teacher, asked), "shrink.{part} and shrink.width")
    shape = _possible_shape(config, teacher)
    if config.initialization == "teacher_layers":
        layer_list_name(empty)
        check_cuttable(empty, parts_to_cut(teacher, shape), "shrink.{part} and shrink.width")
    for sentence in odd_sizes(teacher, shape):
        log.info("the student's %s", sentence)


def parts_to_cut(teacher: "PretrainedConfig", shape: Shape) -> list[Any]:
    """Name the parts of the teacher that such a student has fewer of."""
    before, after = ({"layers": one.layers} | one.widths._asdict() for one in (whole_shape(teacher), shape))
    return [name for name in before if after[name] != before[name]]


def _possible_shape(config: ShrinkConfig, teacher: "PretrainedConfig") -> Shape:
    """The student's shape; of a teacher whose MLP cannot be cut, one of whole layers if that is all that was asked for."""
    from leanpipe.models.count import empty_model
    from leanpipe.shrink.cuttable import cuttable_parts

    shape = choose_shape(teacher, config, config.asked)
    if config.width != 1 or config.mlp_channels or config.layers:
        return shape
    whole = whole_shape(teacher)
    if "mlp_channels" not in cuttable_parts(empty_model(teacher)):
        return choose_shape(teacher, config, config.asked._replace(mlp_channels=whole.widths.mlp_channels))
    if config.cut == "layers":
        return shape
    deepest = (shape.layers + whole.layers + 1) // 2
    found = []
    for layers in range(deepest, max(shape.layers, deepest - _LAYERS_TRIED), -1):
        with suppress(UserError):  # so few channels would be left that none is
            found.append(choose_shape(teacher, config, config.asked._replace(layers=layers)))
    return max(found, key=lambda one: best_multiple(one.widths.mlp_channels), default=shape)


def student_config(config: ShrinkConfig, teacher: "PretrainedConfig") -> "PretrainedConfig":
    """Return the config of the student that such a teacher will have."""
    from leanpipe.models.count import with_layers
    from leanpipe.shrink.narrow import narrow_config

    shape = _possible_shape(config, teacher)
    student = with_layers(narrow_config(teacher, shape.widths), list(range(shape.layers)))
    student.__dict__.pop("uncut_parameters", None)  # its teacher's
    return student


def estimate_shrink(config: ShrinkConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `shrink` takes: the teacher, which reads some text, and the student in full precision."""
    from leanpipe.models.count import expected_config, parameters_of
    from leanpipe.shrink.cuttable import mlp_channels
    from leanpipe.shrink.greedy_layers import readings

    teacher, blocks = expected_config(inputs["teacher"]), inputs["blocks"].facts
    student = student_config(config, teacher)
    student.dtype = teacher.dtype or "bfloat16"
    whole, made = parameters_of(teacher), parameters_of(student)
    parts = {
        "process": process_bytes(kind),
        "teacher": bytes_of_weight() * whole,
        "student": 4 * made if kind == "cpu" else 0,
    }
    if (channels := mlp_channels(teacher)) != mlp_channels(student):
        parts["channels"] = 4 * channels**2 * teacher.num_hidden_layers if kind == "cpu" else 0
    peak = sum(parts.values())
    times = (
        readings(teacher.num_hidden_layers, student.num_hidden_layers) if config.keep == "divergence" else 1
    )
    tokens = config.calibration_tokens * times
    reading = Repeated("read", teacher, tokens, blocks["block_length"], 1, read_arithmetic())
    result = {"model": student, "tokenizer": blocks.get("tokenizer")}
    if config.initialization != "random":
        result["intact"] = uncut_parts(teacher, _possible_shape(config, teacher))
    return Estimate(
        peak,
        max(host_bytes(kind, peak), 4 * made),
        2 * made,
        2.0 * whole * tokens,
        parts,
        parts["teacher"],
        result=result,
        repeated=(reading,),
    )


@stage(
    version=3,
    uses_device=True,
    check=check_shrink,
    estimate=estimate_shrink,
    marks=licensed_input("teacher"),
    reads={"blocks": PREPARED_FROM},
    pages=(Page("shape.md", "shape", "What the student has of its teacher"),),
    groups=dict.fromkeys(("teacher_parameters",), NOT_COMPARED),
)
def shrink(config: ShrinkConfig, inputs: ShrinkInputs, out: Path, report: Report) -> Summary:
    """Write the teacher, cut to the student's shape, as a model folder to `out`, and what it kept to `shape.json`."""
    import torch

    from leanpipe.models.count import count_parameters, read_config, whole_parameters
    from leanpipe.models.student import change_vocabulary
    from leanpipe.tokens.blocks import expected_blocks

    check_shrink(config, {"teacher": Expected(inputs.teacher), "blocks": expected_blocks(inputs.blocks)})
    teacher_config = read_config(inputs.teacher)
    shape = _possible_shape(config, teacher_config)
    torch.manual_seed(config.seed)
    kept, influence, made = make_student(config, shape, inputs)
    student, tokenizer = made.model, load_tokenizer(inputs.blocks / "tokenizer")
    check_numbers(student, inputs.teacher)
    intact = [] if config.initialization == "random" else uncut_parts(teacher_config, shape, kept)
    if tokenizer.get_vocab() != (old := load_tokenizer(inputs.teacher)).get_vocab():
        change_vocabulary(student, old, tokenizer)
        intact = []
    dtype = teacher_config.dtype or torch.bfloat16
    save_model(student, tokenizer, out, dtype, made_of=[inputs.teacher])
    write_shape(out, kept, made.hidden, intact)
    summary = {
        "parameters": count_parameters(student),
        "teacher_parameters": whole_parameters(teacher_config),
        "layers": shape.layers,
        **shape.widths._asdict(),
    }
    report.metrics({name: float(value) for name, value in summary.items()})
    _write_page(out / REPORT, teacher_config, shape, kept, summary)
    _draw_layers(out / REPORT / "layers.png", kept, influence or [1.0] * teacher_config.num_hidden_layers)
    return summary


def make_student(
    config: ShrinkConfig, shape: Shape, inputs: ShrinkInputs
) -> "tuple[list[int], list[float], Cut]":
    """Make the student, with the indices of the teacher's layers that it has, and the influence of all if it was measured."""
    import torch

    from leanpipe.models.count import read_config, with_layers
    from leanpipe.models.student import evenly_spaced, layer_list_name, random_student
    from leanpipe.shrink.importance import measure_importance
    from leanpipe.shrink.narrow import Cut, cut_model, narrow_config
    from leanpipe.shrink.teacher_blocks import calibration_blocks

    described = read_config(inputs.teacher)
    if config.initialization == "random":
        kept = evenly_spaced(described.num_hidden_layers, shape.layers)
        model = random_student(with_layers(narrow_config(described, shape.widths), kept))
        return kept, [], Cut(model, torch.arange(shape.widths.hidden_size))
    teacher = load_for_inference(inputs.teacher)
    name = layer_list_name(teacher)
    importance, sample = None, []
    narrower = parts_to_cut(described, shape) not in ([], ["layers"])
    if narrower or config.keep in ("importance", "divergence"):
        sample = calibration_blocks(inputs.teacher, inputs.blocks, config.calibration_tokens)
    if narrower or config.keep == "importance":
        fewer = shape.widths.mlp_channels != whole_shape(described).widths.mlp_channels
        importance = measure_importance(teacher, list(teacher.get_submodule(name)), sample, moments=fewer)
    kept = _kept_layers(config, teacher, sample, importance, shape.layers)
    influence = importance.influence_L.tolist() if importance else []
    return kept, influence, cut_model(teacher, name, kept, shape.widths, importance)


def _kept_layers(
    config: ShrinkConfig, teacher: Any, sample: list[Any], importance: "Importance | None", kept: int
) -> list[int]:
    """Choose, by `keep`, which of the teacher's layers stay."""
    from leanpipe.models.student import evenly_spaced, first_and_last, layer_list_name, most_important
    from leanpipe.shrink.greedy_layers import least_divergent

    layers = teacher.config.num_hidden_layers
    if config.keep == "importance" and importance:
        return most_important(importance.influence_L, kept)
    if config.keep == "divergence":
        return least_divergent(teacher, layer_list_name(teacher), sample, kept)[0]
    return first_and_last(layers, kept) if config.keep == "first_and_last" else evenly_spaced(layers, kept)


def _write_page(
    folder: Path, teacher: "PretrainedConfig", shape: Shape, kept: list[int], summary: Summary
) -> None:
    before = whole_shape(teacher)
    rows: list[tuple[str, str, str]] = [("layers", f"{before.layers:,}", f"{shape.layers:,}")]
    rows += [
        (name, f"{old:,}", f"{new:,}")
        for name, old, new in zip(
            ("hidden size", "MLP channels", "groups of heads"), before.widths, shape.widths, strict=True
        )
    ]
    rows.append(("parameters", f"{summary['teacher_parameters']:,}", f"{summary['parameters']:,}"))
    notes = [f"- {sentence}\n" for sentence in odd_sizes(teacher, shape)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shape.md").write_text(
        table(("part", "teacher", "student"), rows)
        + f"\nLayers of the teacher that stay, from 0: {', '.join(map(str, kept))}\n\n"
        + "".join(notes)
    )


def _draw_layers(file: Path, kept: list[int], influence: list[float]) -> None:
    from leanpipe.core.plots import DROPPED, KEPT, picture

    with picture(file) as axes:
        colors = [KEPT if layer in kept else DROPPED for layer in range(len(influence))]
        axes.bar(range(len(influence)), influence, color=colors)
        axes.set(
            xlabel="layer of the teacher",
            ylabel="1 - cosine of what goes in and comes out",
            title=f"{len(kept)} of {len(influence)} layers stay (green)",
        )
